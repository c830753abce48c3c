from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from bcfusion.contracts import Batch, Row
from bcfusion.errors import CheckpointError
from bcfusion.evaluation.evaluate import evaluate, input_signals, load_model
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.utterances import Utterances
from bcfusion.generators.identity import Identity
from bcfusion.metrics.si_sdr import SiSdr
from bcfusion.run.bundle import save_bundle

RATE = 16_000


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = {"_target_": "bcfusion.generators.identity.Identity", "sample_rate": RATE, "in_channels": 1}
    return save_bundle(tmp_path / "bundle", Identity(RATE, 1), config, ["body"], training={})


def test_a_model_and_the_folder_it_was_saved_to_have_the_same_scores(bundle: Path) -> None:
    signal = torch.randn(1, 1, 800, generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs=signal, target=0.5 * signal, lengths=torch.tensor([700]), ids=["a"])
    row = Row("a", {"air": "a.wav"}, "anna", "test", RATE, 0.05)
    received: dict[str, Mapping[str, np.ndarray]] = {}
    with Scorer({"si_sdr": SiSdr()}, RATE, workers=0) as scorer:
        one, other = (
            evaluate(
                model,
                Utterances([row], [batch], ["body"], RATE),
                scorer,
                lambda index, item, signals: received.update({f"{index} {item}": signals}),
            )
            for model in (Identity(RATE, 1).eval(), bundle)
        )
    assert one == other
    assert one.mean("enhanced") == one.mean("input")
    assert {name: len(samples) for name, samples in received["0 a"].items()} == dict.fromkeys(
        ("input", "enhanced", "target"), 700
    )


@pytest.mark.parametrize(("sensors", "rate"), [(["body", "noisy"], RATE), (["temple"], RATE), (["body"], 8000)])
def test_a_model_for_another_task_is_refused(bundle: Path, sensors: list[str], rate: int) -> None:
    expected = rf"takes body at 16000 Hz, but the task gives {', '.join(sensors)} at {rate} Hz: choose its recipe"
    with pytest.raises(CheckpointError, match=expected):
        load_model(bundle, sensors, rate)


def test_inputs_are_named_by_their_sensors_when_there_are_several() -> None:
    inputs = torch.arange(6.0).reshape(2, 3)
    signals = input_signals(inputs, 2, ["body", "noisy"])
    assert {name: signal.tolist() for name, signal in signals.items()} == {
        "input (body)": [0.0, 1.0],
        "input (noisy)": [3.0, 4.0],
    }
