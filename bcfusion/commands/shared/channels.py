"""The option ``--channels``: which channel of a recording or a device is which sensor."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bcfusion.errors import ConfigError

__all__ = ["add_channels_option", "parse_channels"]


def add_channels_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--channels`` to a parser; :func:`parse_channels` reads it, once the network's sensors are known."""
    parser.add_argument(
        "--channels",
        metavar="NAME=N,...",
        help="the channel of each sensor, counted from 1, such as body=2,noisy=1; default: in the network's order",
    )


def parse_channels(text: str, sensors: Sequence[str]) -> list[int]:
    """Return the channel of each sensor, counted from 0, in the order of the sensors.

    Args:
        text: ``NAME=N`` for each sensor, separated by commas, N counted from 1; for a network of one sensor, ``N``
            suffices.
        sensors: of the network, in its order.

    Raises:
        ConfigError: not of that form, a sensor is missing, unknown or named twice, or a channel below 1. Several
            sensors may have the same channel.

    Example:
        >>> parse_channels("noisy=1,body=2", ["body", "noisy"])
        [1, 0]
    """
    form = ",".join(f"{name}={number}" for number, name in enumerate(sensors, start=1))
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if len(sensors) == 1 and len(entries) == 1 and "=" not in entries[0]:
        entries = [f"{sensors[0]}={entries[0]}"]
    found: dict[str, int] = {}
    problems = []
    for entry in entries:
        name, equals, number = (part.strip() for part in entry.partition("="))
        if not equals or not number.isdecimal() or int(number) < 1:
            problems.append(f"{entry} is not NAME=N, N a channel counted from 1")
        elif name not in sensors:
            problems.append(f"{name} is no sensor of the network, which takes {', '.join(sensors)}")
        elif name in found:
            problems.append(f"{name} is given twice")
        else:
            found[name] = int(number) - 1
    if not problems and (missing := [name for name in sensors if name not in found]):
        problems.append(f"no channel for {', '.join(missing)}")
    if problems:
        raise ConfigError([f"--channels {text}: {problem}; write for example {form}" for problem in problems])
    return [found[name] for name in sensors]
