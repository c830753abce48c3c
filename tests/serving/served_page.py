"""The page of ``bcfusion serve`` in Chromium: a server in a thread, a microphone that plays a file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bcfusion.generators.identity import Identity
from bcfusion.run.bundle import save_bundle
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel, load_models
from bcfusion.serving.server import Settings, serve

HANGS = 120.0  # seconds, after which a test ends what will never come
HOSTILE = "<img src=x onerror=hacked=1>"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
MICROPHONE_RATE = 48000
LEFT, RIGHT = (220.0, 331.0, 553.0), (440.0, 617.0)  # Hz of the sines in the two channels of the microphone
AMPLITUDE = 0.1  # of each sine
# every request of a test comes from one address
LIMITS: dict[str, Any] = {"requests": 1000.0, "max_seconds": 20.0}


def identities(folder: Path) -> Mapping[str, ServedModel]:
    """Three models whose output is their last sensor; the third, with a hostile name, is for a rate of 8 kHz."""
    given = []
    for name, sensors, rate in (("one", ["body"], 16000), ("two", ["body", "noisy"], 16000), (HOSTILE, ["body"], 8000)):
        sizes = {"sample_rate": rate, "in_channels": len(sensors)}
        config = {"_target_": "bcfusion.generators.identity.Identity", **sizes}
        given.append(str(save_bundle(folder / name, Identity(**sizes), config, sensors, {"step": 1})))
    return load_models(given, "torch")


def write_microphone(path: Path) -> Path:
    """Write what the microphone hears: sines, whose periods end with the file, so that it can be repeated."""
    times = np.arange(4 * MICROPHONE_RATE) / MICROPHONE_RATE
    channels = [sum(AMPLITUDE * np.sin(2 * np.pi * hertz * times) for hertz in each) for each in (LEFT, RIGHT)]
    soundfile.write(path, np.stack(channels, axis=1), MICROPHONE_RATE, subtype="PCM_16")
    return path


class Running:
    """A server in a thread.

    Attributes:
        address: of its page.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self.address, self._server = "", None
        listening = threading.Event()

        def ready(address: str, server: Any) -> None:
            self.address, self._server = address, server
            listening.set()

        self._thread = threading.Thread(target=serve, args=(models, Settings(port=0, limits=limits), ready))
        self._thread.start()
        assert listening.wait(HANGS)

    def end(self) -> None:
        """Let the server end as by a signal, and wait until it has."""
        self._server.should_exit = True
        self._thread.join(HANGS)
        assert not self._thread.is_alive()


@contextmanager
def running(models: Mapping[str, ServedModel], **limits: Any) -> Iterator[Running]:
    """Yield a server; it is ended at the end, if it has not been before."""
    server = Running(models, Limits(**{**LIMITS, **limits}))
    try:
        yield server
    finally:
        server.end()


@contextmanager
def chromium(driver: Any, executable: str | None, microphone: Path) -> Iterator[Any]:
    """Yield a browser whose microphone repeats a file, and which asks nobody."""
    browser = driver.chromium.launch(
        executable_path=executable,
        args=[
            "--no-sandbox",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}",
        ],
    )
    yield browser
    browser.close()


class Opened:
    """The page in a browser context of its own, with all errors that occurred in it.

    Args:
        browser: of :func:`chromium`.
        address: of the page.
        viewport: width and height.
        before: JavaScript that runs before the page's own.
    """

    def __init__(self, browser: Any, address: str, viewport: dict[str, int] = WIDE, before: str = "") -> None:
        self.context = browser.new_context(viewport=viewport, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * HANGS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(
            "window.violations = [];"
            "document.addEventListener('securitypolicyviolation', (event) => violations.push(event.blockedURI));"
            + before
        )
        self.address = address
        self.page.goto(address)
        self.wait("window.bcfusionServe?.started")

    def js(self, expression: str, argument: Any = None) -> Any:
        return self.page.evaluate(expression, argument)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, expression: str) -> None:
        """Wait by polling: playwright's own waiting evaluates text inside the page, which its policy forbids."""
        self.wait_until(lambda: self.js(expression), expression)

    def wait_until(self, holds: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + HANGS
        while not holds():
            assert time.monotonic() < until, f"still not so: {what}"
            self.page.wait_for_timeout(20)

    def shows(self, selector: str) -> None:
        self.wait_until(lambda: self.page.locator(selector).is_visible(), f"{selector} is visible")

    def restore(self) -> None:
        """Send what was chosen, and wait for the result."""
        self.page.click("#restore")
        self.shows("#result")

    def go_live(self) -> None:
        self.page.click("#tab-live")
        self.page.click("#start")
        self.wait("bcfusionServe.live.session?.figures?.parts")

    def close(self, expected: tuple[str, ...] = ()) -> None:
        """Close it; fail if it raised an error, violated its policy, or asked another server for anything.

        Args:
            expected: parts of the errors that the browser itself reports for a failed request.
        """
        violations = self.js("window.violations")
        self.context.close()
        unexpected = [error for error in self.errors if not any(part in error for part in expected)]
        assert unexpected == [], unexpected
        assert violations == []
        own = (self.address, "data:", f"blob:{self.address}")
        assert [url for url in self.requests if not url.startswith(own)] == []

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("BCFUSION_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
