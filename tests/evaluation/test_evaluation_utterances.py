from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from bcfusion.contracts import UNKNOWN_SPEAKER, Batch, Row
from bcfusion.evaluation.evaluate import evaluate
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.utterances import UNREADABLE, Utterances
from bcfusion.metrics.si_sdr import SiSdr

RATE = 16_000


class Half(torch.nn.Module):
    """A network that halves its input."""

    sample_rate = RATE

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.gain * inputs


def known(*rows: Row, batches: Sequence[Batch] = ()) -> Utterances:
    return Utterances(rows, batches, ["noisy"], RATE)


def row(name: str, speaker: str = "anna", **extra: object) -> Row:
    return Row(name, {"air": f"{name}.wav"}, speaker, "test", RATE, 1.0, extra=extra)


def batch(name: str, ratio: float | None) -> Batch:
    """Return half a second of speech and a pause, with noise at ``ratio`` dB below the speech without its pause."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 1, RATE, generator=generator)
    target[..., RATE // 2 :] = 0
    noise = torch.randn(1, 1, RATE, generator=generator) * 10 ** (-(ratio or 0) / 20)
    made = Batch(inputs=target + noise, target=target, lengths=torch.tensor([RATE]), ids=[name])
    if ratio is not None:
        made["noise"] = noise
    return made


def test_the_ratio_compares_speech_without_pauses_with_the_noise_of_the_simulator() -> None:
    about = known(row("a", snr=40)).about
    assert float(about(batch("a", -5.0), 0)["snr"]) == pytest.approx(-5.0, abs=0.3)
    assert about(batch("a", None), 0)["snr"] == "40.0"  # recorded noise: from the manifest
    silent = batch("a", 0.0)
    silent["noise"] = torch.zeros_like(silent["noise"])
    assert about(silent, 0)["snr"] == ""


def test_padding_after_an_item_counts_neither_as_speech_nor_as_noise() -> None:
    one, about = batch("a", 5.0), known(row("a")).about
    padded = Batch(
        inputs=one["inputs"], target=one["target"], noise=one["noise"].clone(), lengths=torch.tensor([8000]), ids=["a"]
    )
    padded["noise"][..., 8000:] = 100.0
    assert float(about(padded, 0)["snr"]) == pytest.approx(5.0, abs=0.3)


def test_what_a_corpus_does_not_know_is_empty() -> None:
    about = known(row("a", UNKNOWN_SPEAKER), row("b", corpus="vctk", snr="loud")).about
    assert about(batch("a", None), 0) == {"speaker": "", "corpus": "", "snr": ""}
    assert about(batch("b", None), 0) == {"speaker": "anna", "corpus": "vctk", "snr": ""}


def test_the_scores_of_a_network_carry_them_and_unread_utterances_are_skipped_with_their_reason() -> None:
    utterances = known(row("a"), row("damaged", "bert"), row("b"), batches=[batch("a", 0.0), batch("b", 10.0)])
    with Scorer({"si_sdr": SiSdr()}, RATE, workers=0) as scorer:
        scores = evaluate(Half(), utterances, scorer)
    assert [(line.id, line.system) for line in scores.rows] == [
        (name, system) for name in ("a", "b", "damaged") for system in ("input", "enhanced")
    ]
    assert [line.info["speaker"] for line in scores.rows] == ["anna"] * 4 + ["bert"] * 2
    assert scores.skipped("enhanced")["si_sdr"] == {UNREADABLE: 1}
    assert scores.count("si_sdr", "enhanced") == 2
    assert np.isnan(scores.rows[-1].values["si_sdr"])
