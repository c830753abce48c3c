"""The options ``--strength`` and ``--limit-db``: how much of a network's work is wanted."""

from __future__ import annotations

import argparse

from bcfusion.commands.shared.arguments import between
from bcfusion.errors import ConfigError

__all__ = ["add_blend_options", "check_blend", "share_of"]

LARGEST_LIMIT = 200.0  # dB; beyond any sample format


def add_blend_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--strength`` and ``--limit-db`` to a parser; :func:`share_of` reads them."""
    parser.add_argument(
        "--strength",
        metavar="0..1",
        type=between(0, 1),
        default=1.0,
        help="how much of the network's work is wanted: the output is y' = g x + (1 - g) y with g = 1 - strength, x "
        "the sensor that the network starts from, y its output; default: 1, the network alone; 0 is the sensor alone",
    )
    parser.add_argument(
        "--limit-db",
        metavar="DB",
        type=between(0, LARGEST_LIMIT),
        help="instead of --strength: attenuate nothing by more than DB, with g = 10^(-DB/20) in the same formula; "
        "12 keeps a quarter of the sensor; default: no limit",
    )


def check_blend(arguments: argparse.Namespace) -> None:
    """Raise an error if parsed options contradict each other; torch is not needed to say so.

    Raises:
        ConfigError: both options are given.
    """
    if arguments.limit_db is not None and arguments.strength != 1:
        given = f"--strength {arguments.strength:g} --limit-db {arguments.limit_db:g}"
        raise ConfigError([f"{given}: give either a strength or a limit in dB"])


def share_of(arguments: argparse.Namespace) -> float:
    """Return g, the share of the sensor in the output, from parsed options, whose ranges the parser has checked.

    Raises:
        ConfigError: both options are given.
    """
    check_blend(arguments)

    from bcfusion.inference.blend import input_share

    return input_share(arguments.strength, arguments.limit_db)
