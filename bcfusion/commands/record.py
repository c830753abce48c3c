"""``bcfusion record``: guided recording of pairs for a new sensor or wearer."""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import sys
import time
from typing import TYPE_CHECKING, TextIO

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import between, path, positive_int, verb_parser
from bcfusion.commands.shared.channels import parse_channels
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.contracts import SPLITS
from bcfusion.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from bcfusion.live.device import Capture
    from bcfusion.live.session import Session
    from bcfusion.live.takes import Judged

HELP = """\
Record sentences with a body sensor and a microphone at once, for bcfusion adapt and bcfusion calibrate. Each sentence
is shown; Enter begins, Enter ends. Level, clipping, silent and equal channels are checked, and a sentence can be
repeated. Lag and polarity between the sensors are measured. A minute in ten or more sentences is enough to adapt.

examples:
  bcfusion stream --list-devices
  bcfusion record --output recordings                             # channel 1 is the sensor, 2 the microphone
  bcfusion record --output recordings --input-device 3 --channels body=2,air=1 --speaker anna
  bcfusion record --output recordings --speaker anna              # continue with the sentences anna has not read
  bcfusion record --output recordings --prompts sentences.txt --seconds 8
  bcfusion adapt throat --pairs recordings/pairs.jsonl --output adapted

Written are SENSOR/SPEAKER/NUMBER.wav, 24 bits, and the manifest pairs.jsonl. Sound cards need pip install
'bcfusion[live]' and PortAudio (apt-get install libportaudio2).
"""

RATE = 48000  #: Hz, where the sound card takes it
CUT = 0.15  #: seconds at the end of a sentence, in which the key is heard
BEFORE = 0.2  #: seconds after the key that begins
ENDS = ("q", "quit", "end", "exit")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: the sound card fails, or a file cannot be read or written.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    columns = _channels(arguments.channels)
    if not _NAME.fullmatch(arguments.speaker) or arguments.speaker in SPLITS:
        parser.error(f"--speaker {arguments.speaker}: a name of letters and digits, other than {', '.join(SPLITS)}")

    from bcfusion.live.device import Capture, common_rate, find_card
    from bcfusion.live.prompts import SENTENCES, read_prompts
    from bcfusion.live.session import Session

    sentences = SENTENCES if arguments.prompts is None else read_prompts(arguments.prompts)
    count = max(columns.values()) + 1
    source = find_card(arguments.input_device, "input", count)
    rate = common_rate(arguments.sample_rate or RATE, source, count)
    if arguments.sample_rate not in (None, rate):
        raise ConfigError([f"--sample-rate {arguments.sample_rate}: {source} does not take it, but {rate} Hz"])
    session = Session(arguments.output, list(columns), rate, arguments.speaker, arguments.split)
    left = [sentence for sentence in sentences if sentence not in session.done]
    if session.rows:
        print(
            f"{arguments.output} holds {len(session.rows)} recordings; of {len(sentences)} sentences "
            f"{arguments.speaker} has {len(left)} left"
        )
    if left:
        named = ", ".join(f"{name} is channel {column + 1}" for name, column in columns.items())
        print(f"{source}, {rate} Hz; {named}")
        try:
            with (
                cleaning_up_when_ended(),
                Capture(source, rate, list(columns.values()), arguments.seconds + BEFORE + 1) as capture,
            ):
                _record(session, capture, left, arguments.seconds, Keys(sys.stdin))
        except BaseException:  # a signal or a fault: what was kept is kept
            _close(session)
            raise
    _close(session)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("record", HELP)
    parser.add_argument("--output", metavar="DIR", type=path, required=True, help="folder to write, or to continue")
    parser.add_argument("--input-device", metavar="DEVICE", help="number or part of the name; default: the system's")
    parser.add_argument(
        "--channels",
        metavar="NAME=N,...",
        default="body=1,air=2",
        help="the channel of each sensor, counted from 1, air among them; default: body=1,air=2",
    )
    parser.add_argument("--prompts", metavar="FILE", type=path, help="sentences, one a line; default: 50 in English")
    parser.add_argument("--speaker", metavar="NAME", default="wearer", help="who speaks; default: wearer")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=between(1, 300),
        default=20.0,
        help="after which a sentence ends without a key; default: 20",
    )
    parser.add_argument(
        "--sample-rate", metavar="HZ", type=positive_int, help="default: 48000, else what the sound card takes"
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="of the manifest's lines; default: train")
    return parser


def _channels(text: str) -> dict[str, int]:
    """Return name to channel, from 0.

    Raises:
        ConfigError: the names are no columns of a manifest, air is missing, or two have the same channel.
    """
    from bcfusion.live.session import RESERVED

    names = [entry.partition("=")[0].strip() for entry in text.split(",") if entry.strip()]
    wrong = [name for name in names if not _NAME.fullmatch(name) or name in RESERVED]
    if wrong:
        raise ConfigError([f"--channels {text}: {wrong[0]} cannot be the name of a sensor; write body=1,air=2"])
    columns = dict(zip(names, parse_channels(text, names), strict=True))
    if "air" not in columns or len(columns) < 2:
        raise ConfigError([f"--channels {text}: give air and at least one other sensor, as in body=1,air=2"])
    if len(set(columns.values())) < len(columns):
        raise ConfigError([f"--channels {text}: two sensors have the same channel"])
    return columns


class Keys:
    """Lines that somebody types, each waited for no longer than a time.

    Args:
        stream: with a file descriptor, such as standard input; nothing else reads from it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._held = b""

    def line(self, seconds: float | None = None) -> str | None:
        """Return the next line, in lower case; ``q`` at the end of the input; None after ``seconds`` without one."""
        due = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._held:
            left = None if due is None else max(0.0, due - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                return None
            more = os.read(self._descriptor, 4096)
            if not more:
                return ENDS[0]
            self._held += more
        text, _, self._held = self._held.partition(b"\n")
        return text.decode(errors="replace").strip().lower()


def _record(session: Session, capture: Capture, sentences: list[str], seconds: float, keys: Keys) -> None:
    place = 0
    while place < len(sentences):
        sentence = sentences[place]
        print(f"\n[{place + 1}/{len(sentences)}] {sentence}")
        print("Enter begins, s skips, q ends: ", end="", flush=True)
        answer = keys.line()
        if answer in ENDS:
            return
        if answer == "s":
            place += 1
            continue
        signals = _take(capture, session.sensors, seconds, keys)
        if signals is None:
            return
        verdict = _decide(session, sentence, signals, capture.overruns, keys)
        if verdict == "end":
            return
        place += verdict == "next"


def _take(capture: Capture, sensors: tuple[str, ...], seconds: float, keys: Keys) -> dict[str, np.ndarray] | None:
    """Return what was recorded of each sensor, without the sound of the keys; None if the user ends."""
    time.sleep(BEFORE)
    capture.begin()
    print(f"recording; Enter ends (or {seconds:g} s): ", end="", flush=True)
    answer = keys.line(seconds)
    take = capture.end()
    if answer is None:
        print()
    elif answer in ENDS:
        return None
    else:
        take = take[:, : max(0, take.shape[1] - round(CUT * capture.rate))]
    return dict(zip(sensors, take, strict=True))


def _decide(session: Session, sentence: str, signals: dict[str, np.ndarray], overruns: int, keys: Keys) -> str:
    """Show what is wrong, ask what to do, and return ``next``, ``again`` or ``end``."""
    from bcfusion.live.takes import judge

    judged = judge(signals, session.rate, overruns)
    print("\n".join(_report(judged, len(signals["air"]) / session.rate)))
    keep = "Enter repeats it, k keeps it" if judged.useless else "Enter keeps it, r repeats it"
    print(f"{keep}, s skips it, q ends: ", end="", flush=True)
    answer = keys.line()
    if answer in ENDS:
        return "end"
    if answer == "s":
        return "next"
    if answer == "r" or (judged.useless and answer != "k") or not judged.levels:
        return "again"
    session.add(sentence, signals, judged)
    print("\n".join(_so_far(session)))
    return "next"


def _report(judged: Judged, seconds: float) -> list[str]:
    levels = [f"{name} {level:.0f} dBFS, peak {judged.peaks[name]:.0f}" for name, level in judged.levels.items()]
    lines = [f"{seconds:.1f} s; {'; '.join(levels)}"]
    for fault in judged.faults:
        lines.append(f"{'FAULT' if fault.severe else 'note'}: {fault.what}: {fault.advice}")
    return lines


def _so_far(session: Session) -> list[str]:
    from bcfusion.data.inspect.alignment import ENOUGH

    found = session.alignment()
    sensor = next(name for name in session.sensors if name != "air") if "body" not in session.sensors else "body"
    lines = [f"{session.recorded} sentence{'s' * (session.recorded != 1)}, {session.seconds:.0f} s in all"]
    if found is not None and found.confidence >= ENOUGH:
        sign = "inverted" if found.polarity < 0 else "not inverted"
        lines[0] += f"; {sensor} is {1e3 * found.lag_seconds:+.2f} ms later than air, {sign}"
    elif found is not None:
        lines[0] += f"; lag and polarity of {sensor} are uncertain so far"
    return lines


def _close(session: Session) -> None:
    """Print what there is and what to type next."""
    from bcfusion.adaptation.pairs import LEAST_SECONDS

    if not session.rows:
        print("\nnothing is recorded")
        return
    manifest, folder = shlex.quote(str(session.manifest)), shlex.quote(str(session.folder))
    adapted = shlex.quote(str(session.folder.parent / f"{session.folder.name}-adapted"))
    count = len(session.rows)
    print(f"\n{manifest}: {count} recording{'s' * (count != 1)}, {session.seconds:.0f} s")
    if session.seconds < LEAST_SECONDS:
        print(f"at least {LEAST_SECONDS:g} s are needed to adapt, better a minute: bcfusion record --output {folder}")
    print(f"  bcfusion inspect {manifest}")
    if "body" in session.sensors:
        print(f"  bcfusion adapt throat --pairs {manifest} --output {adapted}")
    sensor = "" if "body" in session.sensors else f" --sensor {next(s for s in session.sensors if s != 'air')}"
    out = shlex.quote(str(session.folder / "calibration.json"))
    print(f"  bcfusion calibrate --pairs {manifest}{sensor} --out {out}")


if __name__ == "__main__":
    raise SystemExit(exit_status(main, sys.argv[1:]))
