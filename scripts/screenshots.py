"""Screenshots for the docs: pages of ``bcfusion listen`` and ``bcfusion serve``, and TensorBoard's HPARAMS.

    python scripts/screenshots.py page listen.html wide.png
    python scripts/screenshots.py page listen.html phone.png --width 360 --height 740 --scale 2
    python scripts/screenshots.py hparams runs hparams.png --width 1500 --toggle discriminators
    python scripts/screenshots.py serve http://127.0.0.1:8000/ serve.png --model throat --sound throat.flac
    python scripts/screenshots.py serve http://127.0.0.1:8000/ live.png --model throat_causal --microphone throat.wav

Needs playwright (from the extra ``dev``) and the system's chromium.
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

from colours import reduce_colours
from playwright.sync_api import Page, sync_playwright


@contextmanager
def browser_page(width: int, height: int, scale: float, microphone: Path | None = None) -> Iterator[Page]:
    """Yield an empty page.

    Args:
        width: in CSS pixels.
        height: in CSS pixels.
        scale: pixels of the picture per CSS pixel.
        microphone: WAV file that the browser's microphone repeats.
    """
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    heard = [] if microphone is None else [*fake, f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required", *heard],
        )
        try:
            yield browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        finally:
            browser.close()


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Run TensorBoard on a folder and yield its address.

    Raises:
        SystemExit: TensorBoard does not answer within a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # the faster reader is a binary that does not run on every machine
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", port, "--load_fast=false"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/data/logdir", timeout=5).read()  # nosec B310 # http, started above
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
    """Wait until no tags have been added for five seconds: an open page does not show what is read later."""
    before, since = b"{}", time.monotonic()
    while before == b"{}" or time.monotonic() - since < 5:
        time.sleep(0.5)
        tags_at = f"{address}/data/plugin/scalars/tags"
        with urllib.request.urlopen(tags_at, timeout=30) as answer:  # nosec B310 # http, started by this script
            tags = answer.read()
        if tags != before:
            before, since = tags, time.monotonic()


def shoot_hparams(
    logdir: Path, picture: Path, width: int, height: int, scale: float, toggled: Sequence[str] = ()
) -> None:
    """Take a picture of the table view of HPARAMS after clicks on some of the boxes on its left."""
    with tensorboard(logdir) as address, browser_page(width, height, scale) as page:
        page.goto(f"{address}/#hparams", wait_until="domcontentloaded")
        page.wait_for_timeout(8000)  # nothing on the page says when it is complete
        for name in toggled:
            page.get_by_text(name, exact=True).first.click()
        page.wait_for_timeout(1500)
        page.screenshot(path=picture)


def shoot_page(document: Path, picture: Path, width: int, height: int, scale: float, script: str | None) -> None:
    """Take a picture of an HTML file, after running ``script`` (JavaScript) in it if given."""
    with browser_page(width, height, scale) as page:
        page.goto(document.resolve().as_uri())
        if script is not None:
            page.evaluate(script)
        page.wait_for_timeout(1500)  # for sounds to be decoded and pictures drawn
        page.screenshot(path=picture)


def shoot_serve(
    address: str,
    picture: Path,
    size: tuple[int, int, float],
    model: str | None,
    sound: Path | None,
    microphone: Path | None,
    seconds: float,
) -> None:
    """Take a picture of the page of a running ``bcfusion serve``, as high as the page is.

    Args:
        address: of the page.
        picture: PNG to write.
        size: see :func:`browser_page`; the height is that of the window before.
        model: to choose; None for the first one.
        sound: a recording to restore and to play, if any.
        microphone: a WAV file to restore live, if any.
        seconds: of live sound before the picture.
    """
    with browser_page(*size, microphone) as page:
        page.goto(address)
        page.locator("#model option").first.wait_for(state="attached")
        if model is not None:
            page.select_option("#model", model)
        if sound is not None:
            page.set_input_files("#files", sound)
            page.click("#restore")
            page.locator("#result").wait_for(timeout=300_000)
            page.locator("#cards .plot").last.click(position={"x": 60, "y": 20})
        if microphone is not None:
            page.click("#tab-live")
            page.click("#start")
            page.locator("#running").wait_for(timeout=60_000)
            page.wait_for_timeout(1000 * seconds)  # until the readout is steady
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": size[0], "height": height})
        page.wait_for_timeout(500)
        page.screenshot(path=picture)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["page", "hparams", "serve"])
    parser.add_argument("source", help="an HTML file, a folder of runs, or the address of a server")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1280, help="CSS pixels")
    parser.add_argument("--height", type=int, default=900, help="CSS pixels")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture per CSS pixel")
    parser.add_argument("--toggle", nargs="+", default=[], metavar="NAME", help="columns of HPARAMS to show or hide")
    parser.add_argument("--script", help="JavaScript to run in the page first")
    parser.add_argument("--model", help="of the server")
    parser.add_argument("--sound", type=Path, metavar="FILE", help="recording that the server restores")
    parser.add_argument("--microphone", type=Path, metavar="WAV", help="recording that the server restores live")
    parser.add_argument("--seconds", type=float, default=15.0, help="of live sound before the picture")
    arguments = parser.parse_args(argv)
    size = arguments.width, arguments.height, arguments.scale
    if arguments.what == "hparams":
        shoot_hparams(Path(arguments.source), arguments.picture, *size, arguments.toggle)
    elif arguments.what == "page":
        shoot_page(Path(arguments.source), arguments.picture, *size, arguments.script)
    else:
        sounds = arguments.sound, arguments.microphone
        shoot_serve(arguments.source, arguments.picture, size, arguments.model, *sounds, arguments.seconds)
    reduce_colours(arguments.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
