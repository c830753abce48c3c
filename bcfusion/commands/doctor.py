"""``bcfusion doctor``: what is installed, what this machine can do, and what to do about the rest."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing

from bcfusion.commands import exit_status
from bcfusion.commands.shared.arguments import verb_parser
from bcfusion.commands.shared.signals import cleaning_up_when_ended
from bcfusion.doctor.checks import CHECKS
from bcfusion.doctor.examination import Examined, examine
from bcfusion.doctor.finding import FAIL, PURPOSES, Finding, worst
from bcfusion.doctor.report import as_json, coloured, lines, summary

HELP = """\
Look at the installation and the machine: versions and combinations that are known not to work, GPUs and precision,
sound, space on disks, caches, extras. The shipped models restore a second of noise. One line each; what does not work
has its remedy below it. The exit status is 1 if training or streaming would fail.
Nothing is left behind, and no network connection is used. It also works where torch cannot be imported.

examples:
  bcfusion doctor
  bcfusion doctor --for train           # a note is enough for what only streaming needs, such as sound cards
  bcfusion doctor --json > doctor.json  # for other programs, or to attach to a report
"""
PROBLEM = 1


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status: 1 if training or streaming would fail."""
    arguments = _parser().parse_args(argv)
    purposes = (arguments.purpose,) if arguments.purpose else PURPOSES
    examined: list[Examined] = []
    with cleaning_up_when_ended(), closing(examine(CHECKS, purposes=purposes)) as examining:
        known = _kept(examining, examined)
        if arguments.json:
            deque(known, maxlen=0)
        else:
            for line in lines(known, coloured(sys.stdout is not None and sys.stdout.isatty())):
                print(line, flush=True)  # loading takes seconds
    if arguments.json:
        print(as_json(examined))
    else:
        print(f"\n{summary(_findings(examined), purposes)}")
    return PROBLEM if worst(_findings(examined)) == FAIL else 0


def _kept(examined: Iterable[Examined], store: list[Examined]) -> Iterator[Examined]:
    """Yield what is examined and keep it."""
    for each in examined:
        store.append(each)
        yield each


def _findings(examined: Iterable[Examined]) -> list[Finding]:
    return [finding for each in examined for finding in each.findings]


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("doctor", HELP)
    parser.add_argument("--for", dest="purpose", choices=PURPOSES, help="what has to work: train or stream; both")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
