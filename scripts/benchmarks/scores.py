"""PESQ, STOI, ESTOI and SI-SDR of many utterances: our processes, and a loop with torchmetrics in one process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Measured, Missing, Setting, agree, compared, in_turns
from benchmarks.sounds import RATE, origin, speech

NAMES = ("pesq_wb", "stoi", "estoi", "si_sdr")
TOLERANCE = 1e-3
WORKERS = 2

Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def torchmetrics_loop() -> tuple[str, Score]:
    """Return the name of the other side, and its scores of one utterance."""
    if find_spec("pesq") is None or find_spec("pystoi") is None:
        raise Missing("not installed: pip install pesq pystoi")
    if find_spec("torchmetrics") is None:
        return packages_loop()
    import torch
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality as pesq
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility as stoi

    def score(estimate: np.ndarray, target: np.ndarray) -> dict[str, float]:
        pair = torch.from_numpy(estimate), torch.from_numpy(target)
        return {
            "pesq_wb": float(pesq(*pair, RATE, "wb")),
            "stoi": float(stoi(*pair, RATE)),
            "estoi": float(stoi(*pair, RATE, extended=True)),
            "si_sdr": float(si_sdr(*pair, zero_mean=True)),
        }

    return f"torchmetrics {version('torchmetrics')}", score


def packages_loop() -> tuple[str, Score]:
    """Return a loop with the packages pesq and pystoi; SI-SDR is computed by its definition in NumPy."""
    from pesq import pesq
    from pystoi import stoi

    def score(estimate: np.ndarray, target: np.ndarray) -> dict[str, float]:
        e, t = estimate - estimate.mean(), target - target.mean()
        wanted = (e @ t) / (t @ t) * t
        return {
            "pesq_wb": pesq(RATE, target, estimate, "wb"),
            "stoi": stoi(target, estimate, RATE),
            "estoi": stoi(target, estimate, RATE, extended=True),
            "si_sdr": float(10 * np.log10((wanted @ wanted) / ((e - wanted) @ (e - wanted)))),
        }

    return f"pesq {version('pesq')} and pystoi {version('pystoi')}", score


def pairs(files: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return estimate and target of each file: speech in noise at 10 dB, at 16 kHz, of at most 4 s."""
    from bcfusion import audio

    found = []
    for number, file in enumerate(files):
        samples, rate = audio.read(file)
        if rate != RATE:
            raise Missing(f"{file.name} has {rate} Hz: this row scores speech at {RATE} Hz")
        target = samples[0, : 4 * RATE].astype(np.float32)
        noise = np.random.default_rng(number).standard_normal(len(target))
        noise *= 10**-0.5 * np.sqrt(np.square(target).mean())
        found.append(((target + noise).astype(np.float32), target))
    return found


def metrics(setting: dict[str, Any]) -> Measured:
    """Compare the scores of every utterance, then time both."""
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.metrics.pesq import Pesq
    from bcfusion.metrics.si_sdr import SiSdr
    from bcfusion.metrics.stoi import Stoi

    how = Setting(**setting)
    name, score = torchmetrics_loop()
    with tempfile.TemporaryDirectory() as folder:
        utterances = pairs(speech(how.speech, Path(folder), 4 if how.rehearsal else 100, 2.0))
    chosen = {"pesq_wb": Pesq(), "stoi": Stoi(), "estoi": Stoi(extended=True), "si_sdr": SiSdr()}
    with Scorer(chosen, RATE, workers=WORKERS) as scorer:

        def ours() -> None:
            for number, (estimate, target) in enumerate(utterances):
                scorer.submit(str(number), {"enhanced": estimate}, target)
            results["ours"] = [{key: row.values[key] for key in NAMES} for row in scorer.collect().rows]

        def theirs() -> None:
            results[name] = [score(*pair) for pair in utterances]

        results: dict[str, list[dict[str, float]]] = {}
        ours()
        theirs()
        agreement = [
            agree(
                f"{key} of {len(utterances)} utterances, the largest difference",
                max(abs(a[key] - b[key]) / abs(b[key]) for a, b in zip(results["ours"], results[name], strict=True)),
                TOLERANCE,
            )
            for key in NAMES
        ]
        taken = in_turns({"ours": ours, name: theirs}, how)
    seconds = sum(len(target) for _, target in utterances) / RATE
    notes = [
        f"{len(utterances)} utterances, {seconds:.0f} s of {origin(how.speech)} in noise at 10 dB",
        f"{WORKERS} processes of ours, which have started",
    ]
    return Measured([compared("time", "s", "ours", name, taken)], agreement, notes)
