"""bcfusion: train, compare, ship and stream networks that restore speech from bone-conduction sensors.

``import bcfusion`` is cheap; torch is loaded by the functions that need it.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "load_generator"]

TYPE_CHECKING = False  # of `typing`, whose import would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from bcfusion.run.bundle import load_generator


def __getattr__(name: str) -> Any:
    if name == "load_generator":
        from bcfusion.run.bundle import load_generator

        return load_generator
    raise AttributeError(f"module 'bcfusion' has no attribute {name!r}")
