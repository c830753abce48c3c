from __future__ import annotations

import argparse
import os
import signal
import threading
import time

import pytest
import soundfile

from bcfusion.commands.shared.blending import add_blend_options, share_of
from bcfusion.commands.shared.channels import add_channels_option, parse_channels
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.errors import ConfigError


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_blend_options(parser)
    add_channels_option(parser)
    return parser.parse_args(argv)


def test_strength_and_limit_become_a_share_of_the_sensor() -> None:
    assert share_of(parsed()) == 0
    assert share_of(parsed("--strength", "0.8")) == pytest.approx(0.2)
    assert share_of(parsed("--limit-db", "20")) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match=r"--strength 0\.5 --limit-db 12: give either"):
        share_of(parsed("--strength", "0.5", "--limit-db", "12"))


@pytest.mark.parametrize("argv", [("--strength", "1.5"), ("--strength", "x"), ("--limit-db", "-3")])
def test_a_wrong_share_is_refused_by_the_parser(argv: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*argv)
    assert "is not a number from 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sensors", "channels"),
    [
        ("body=2,noisy=1", ["body", "noisy"], [1, 0]),
        (" noisy = 3 , body = 1 ", ["body", "noisy"], [0, 2]),
        ("body=1,noisy=1", ["body", "noisy"], [0, 0]),
        ("body=4", ["body"], [3]),
        ("4", ["body"], [3]),
    ],
)
def test_channels_are_counted_from_one_and_named(text: str, sensors: list[str], channels: list[int]) -> None:
    assert parse_channels(text, sensors) == channels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("body=1", "no channel for noisy"),
        ("", "no channel for body, noisy"),
        ("body=1,noisy=2,body=3", "body is given twice"),
        ("body=1,air=2", "air is no sensor of the network, which takes body, noisy"),
        ("body=0,noisy=1", "body=0 is not NAME=N"),
        ("body=x,noisy=1", "body=x is not NAME=N"),
        ("2,1", "2 is not NAME=N"),
    ],
)
def test_wrong_channels_are_refused_with_the_right_form(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_channels(text, ["body", "noisy"])
    assert says in str(caught.value)
    assert "write for example body=1,noisy=2" in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_block_and_the_handlers_are_those_of_before(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (number, signal.SIGALRM)]
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleaned.append(number)

    kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(kind) as caught, cleaning_up_when_ended():
        work()
    assert cleaned == [number]
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + number
    assert [signal.getsignal(each) for each in (number, signal.SIGALRM)] == before


def test_a_signal_waits_until_libsndfile_has_returned() -> None:
    reached = []

    class Sink:
        """What libsndfile calls in the middle of its work."""

        def __init__(self) -> None:
            self.at = 0

        def write(self, data: bytes) -> int:
            if self.at == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            reached.append(len(data))
            self.at += len(data)
            return len(data)

        def seek(self, offset: int, whence: int = 0) -> int:
            return self.at

        def tell(self) -> int:
            return self.at

    def work() -> None:
        soundfile.write(Sink(), [0.0] * 100, 16000, format="RAW", subtype="PCM_16")
        time.sleep(5)

    with pytest.raises(SystemExit) as caught, cleaning_up_when_ended():
        work()
    assert caught.value.code == 128 + signal.SIGTERM
    assert sum(reached) == 200


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with cleaning_up_when_ended():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
