"""What holds for every simulator of a measured sensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import draw, seeded
from hydra.utils import instantiate
from omegaconf import DictConfig

from bcfusion.contracts import BatchSimulator
from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.frames import grid
from bcfusion.data.simulation.magnitude_ratio import MagnitudeRatio
from bcfusion.data.simulation.measured import MeasuredSensor
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.errors import ConfigError

RATE = 16000
KINDS: dict[str, Callable[[str], MeasuredSensor]] = {
    "magnitude_ratio": MagnitudeRatio,
    "transfer_function": TransferFunction,
}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two wearers, 3 dB apart."""
    flat = np.ones(len(grid(RATE)))
    fall = -6.0 * np.log2(np.maximum(grid(RATE), 300.0) / 300.0)
    responses = [
        Response(
            name,
            (name,),
            5.0,
            0.0,
            1,
            0.0,
            gain + fall,
            fall,
            fall,
            flat,
            6 * flat,
            -0.5 * flat,
            4 * flat,
            -70 * flat,
        )
        for name, gain in (("a", 0.0), ("b", 3.0))
    ]
    file = tmp_path_factory.mktemp("calibration") / "two.json"
    Calibration("body", RATE, grid(RATE), tuple(responses)).save(file)
    return str(file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_equals_its_items(calibration: str, kind: str, training: bool) -> None:
    air = 0.1 * torch.randn(3, 1, 9001, generator=seeded(1))
    air[1] = 0.0
    simulator = KINDS[kind](calibration)
    together = simulator.batch(air, [draw(n, training, body) for n, body in enumerate((7, 8, 7))])
    for number, body in enumerate((7, 8, 7)):
        alone = simulator(air[number], draw(number, training, body))["signal"]
        torch.testing.assert_close(together["signal"][number], alone, atol=1e-5, rtol=0)
    assert isinstance(simulator, BatchSimulator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 255, 256, 257, 5000])
def test_any_length_and_silence(calibration: str, kind: str, length: int) -> None:
    for air in (torch.zeros(1, length), 0.1 * torch.randn(1, length, generator=seeded(length))):
        before = air.clone()
        out = KINDS[kind](calibration)(air, draw())["signal"]
        assert out.shape == (1, length)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
        assert bool(out.any())  # the sensor's own noise
        assert torch.equal(air, before)
        assert torch.equal(out, KINDS[kind](calibration)(air, draw())["signal"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_built_by_its_entry_of_the_configuration(
    composed: Callable[..., DictConfig], calibration: str, kind: str
) -> None:
    cfg = composed(f"degradation={kind}", f"degradation.body.calibration={calibration}")
    built, wanted = instantiate(cfg.degradation.body), KINDS[kind](calibration)
    assert type(built) is type(wanted)
    assert vars(built) | {"calibration": 0} == vars(wanted) | {"calibration": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_calibration_is_reported_with_the_other_problems(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read calibration .* bcfusion calibrate") as caught:
        KINDS[kind](str(tmp_path / "none.json"), wander=-1.0)  # type: ignore[call-arg]
    assert len(caught.value.problems) == 2
