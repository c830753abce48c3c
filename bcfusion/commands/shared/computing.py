"""The option ``--device``: where a verb computes."""

from __future__ import annotations

import argparse

from bcfusion.errors import BcfusionError

__all__ = ["add_device_option", "device_of"]


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` to a parser."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; default: a GPU if there is one",
    )


def device_of(name: str) -> str:
    """Return the device that a value of ``--device`` means.

    Raises:
        BcfusionError: there is no such device.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BcfusionError("--device cuda: torch finds no GPU here; leave the option out, or give --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
