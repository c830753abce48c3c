"""Pictures of pages for the docs: a page of ``bcfusion listen``, and TensorBoard's table of hyperparameters.

    python scripts/screenshots.py page listen.html wide.png
    python scripts/screenshots.py page listen.html phone.png --width 360 --height 740 --scale 2
    python scripts/screenshots.py hparams runs hparams.png --width 1500 --toggle discriminators

Needs playwright (of the extra ``dev``) and the system's chromium.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright


@contextmanager
def browser_page(width: int, height: int, scale: float) -> Iterator[Page]:
    """An empty page of so many CSS pixels, each ``scale`` pixels of the picture wide."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"],
        )
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        finally:
            browser.close()


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """TensorBoard's address while it shows a folder.

    Raises:
        SystemExit: it does not answer within a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # its faster reader is a binary that not every machine can run
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", port, "--load_fast=false"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/data/logdir", timeout=5).read()
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise SystemExit(f"TensorBoard does not answer: {error}") from error
                time.sleep(0.3)
        _wait_until_read(address)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_until_read(address: str) -> None:
    """Waits until nothing is added for a while: what is read later is not on a page that was opened before."""
    before, since = b"{}", time.monotonic()
    while before == b"{}" or time.monotonic() - since < 5:
        time.sleep(0.5)
        with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=30) as answer:
            tags = answer.read()
        if tags != before:
            before, since = tags, time.monotonic()


def shoot_hparams(
    logdir: Path, picture: Path, width: int, height: int, scale: float, toggled: Sequence[str] = ()
) -> None:
    """The table view of HPARAMS, after a click on some of the boxes at its left."""
    with tensorboard(logdir) as address, browser_page(width, height, scale) as page:
        page.goto(f"{address}/#hparams", wait_until="domcontentloaded")
        page.wait_for_timeout(8000)  # the page says nowhere that it is filled
        for name in toggled:
            page.get_by_text(name, exact=True).first.click()
        page.wait_for_timeout(1500)
        page.screenshot(path=picture)


def shoot_page(document: Path, picture: Path, width: int, height: int, scale: float, script: str | None) -> None:
    """An HTML file, after some JavaScript has run in it where that is given."""
    with browser_page(width, height, scale) as page:
        page.goto(document.resolve().as_uri())
        if script is not None:
            page.evaluate(script)
        page.wait_for_timeout(1500)  # sounds are decoded, pictures drawn
        page.screenshot(path=picture)


def reduce_colours(picture: Path) -> None:
    """Rewrites a picture with 256 colours of its own: a third of the size."""
    with Image.open(picture) as full:
        reduced = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(picture, optimize=True)


def main(argv: list[str]) -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["page", "hparams"])
    parser.add_argument("source", type=Path, help="an HTML file; a folder of runs")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1280, help="CSS pixels")
    parser.add_argument("--height", type=int, default=900, help="CSS pixels")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture for one of CSS")
    parser.add_argument("--toggle", nargs="+", default=[], metavar="NAME", help="columns of HPARAMS to show or hide")
    parser.add_argument("--script", help="JavaScript to run in the page first")
    arguments = parser.parse_args(argv)
    size = arguments.width, arguments.height, arguments.scale
    if arguments.what == "hparams":
        shoot_hparams(arguments.source, arguments.picture, *size, arguments.toggle)
    else:
        shoot_page(arguments.source, arguments.picture, *size, arguments.script)
    reduce_colours(arguments.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
