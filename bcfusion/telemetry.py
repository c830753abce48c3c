"""What libraries would send to their makers is turned off."""

from __future__ import annotations

import os

__all__ = ["without_telemetry"]


def without_telemetry() -> None:
    """Keep onnxruntime, which has to be imported after this, from sending usage data and from writing its device id.

    A variable ``ORT_DISABLE_TELEMETRY`` that is set already stays as it is.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
