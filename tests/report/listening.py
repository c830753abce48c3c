"""Utterances with distinguishable sounds, for the tests of the listening page."""

from __future__ import annotations

import numpy as np

from bcfusion.report.listening.sounds import Source, Take, Utterance, join

RATE = 16000
HIGHER: dict[str, bool | None] = {"pesq_wb": True, "stoi": True, "si_sdr_lag_ms": None, "lsd": False}
HOSTILE = "<script>window.hacked = 1</script>"
HOSTILE_RUN = "\"><img src=x onerror='window.hacked = 1'>"


def tone(frequency: float, level: float = 0.1, seconds: float = 2.0) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def scores(pesq: float) -> dict[str, float]:
    return {"pesq_wb": pesq, "stoi": pesq / 5, "si_sdr_lag_ms": 0.5, "lsd": 5 - pesq}


def source(name: str, frequency: float, pesq: dict[str, float], level: float = 0.1, seconds: float = 2.0) -> Source:
    takes = {
        item: Take(
            {
                "input": tone(150, seconds=seconds),
                "enhanced": tone(frequency, level, seconds),
                "target": tone(1000, 0.2, seconds),
            },
            RATE,
            {"input": scores(1.0), "enhanced": scores(value)},
        )
        for item, value in pesq.items()
    }
    return Source(name, takes, HIGHER)


def utterances(seconds: float = 2.0) -> list[Utterance]:
    """Three, of which the last differs most in PESQ between the two runs."""
    one = source("eben", 300, {"u/0": 2.0, HOSTILE: 2.0, "u/2": 1.5}, seconds=seconds)
    other = source(HOSTILE_RUN, 500, {"u/0": 2.1, HOSTILE: 1.5, "u/2": 3.5}, level=0.02, seconds=seconds)
    return join([one, other])[0]
