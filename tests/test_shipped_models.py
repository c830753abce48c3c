"""The shipped models: which there are, that each one runs, streams if its card says so, and does what its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from script_loading import load_script
from torch import Tensor

from bcfusion.audio import resample
from bcfusion.contracts import Generator
from bcfusion.inference.enhance import enhance_signal
from bcfusion.metrics.lsd import Lsd
from bcfusion.metrics.stoi import Stoi
from bcfusion.nn.network import estimate_of
from bcfusion.run.bundle import load_generator
from bcfusion.run.card import read_card
from bcfusion.run.models import SHIPPED

ROOT = Path(__file__).parents[1]
SENSORS = {
    "throat": ["body"],
    "throat_causal": ["body"],
    "fusion": ["body", "noisy"],
    "bandwidth_8k": ["narrow"],
}
CAUSAL = ["throat_causal", "bandwidth_8k"]
RATE = 16000


def loaded(name: str) -> Generator:
    return load_generator(SHIPPED / name)


def read(path: Path) -> Tensor:
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def stoi(estimate: Tensor, target: Tensor) -> float:
    return Stoi().score(estimate.numpy(), target.numpy(), RATE)["stoi"]


def test_the_four_models_are_there_and_small() -> None:
    assert sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir()) == sorted(SENSORS)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= load_script("ship_model").LIMIT


@pytest.mark.parametrize("name", SENSORS)
def test_any_signal_gives_one_of_its_length(name: str) -> None:
    model = loaded(name)
    assert model.bundle.sensors == SENSORS[name]
    assert model.sample_rate == RATE
    assert model.causal == (name in CAUSAL)
    for length in (1, 100, 5003):
        noise = 0.1 * torch.randn(len(SENSORS[name]), length, generator=torch.Generator().manual_seed(0))
        for signal in (noise, torch.zeros_like(noise)):
            output = enhance_signal(model, signal)
            assert output.shape == (1, length)
            assert output.isfinite().all()
        assert float(enhance_signal(model, torch.zeros_like(noise)).abs().max()) < 1e-3  # silence stays silence


@pytest.mark.parametrize("name", ["throat", "throat_causal", "fusion"])
def test_the_readme_states_the_scores_of_the_card(name: str) -> None:
    card = read_card(SHIPPED / name / "card.yaml")
    assert card is not None
    assert card.scores is not None
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    for metric, digits in (("stoi", 3), ("pesq_wb", 2)):
        score = card.scores.metrics[metric]
        assert score.interval is not None
        low, high = (f"{end:+.{digits}f}" for end in score.interval)
        assert f"{score.input:.{digits}f}, **{score.enhanced:.{digits}f}** [{low}, {high}]" in row


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_streams_what_it_gives_for_the_whole(name: str) -> None:
    model = loaded(name)
    signal = 0.1 * torch.randn(1, 1, 40 * model.hop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), model.streaming(batch_size=1):
        streamed = torch.cat([estimate_of(model(chunk)) for chunk in signal.split(model.hop, dim=-1)], dim=-1)
    with torch.inference_mode():
        whole = estimate_of(model(signal))
    late = model.lookahead
    torch.testing.assert_close(streamed[..., late:], whole[..., : whole.shape[-1] - late], atol=1e-5, rtol=1e-4)


@pytest.mark.corpora
@pytest.mark.parametrize("name", ["throat", "throat_causal"])
def test_real_recordings_become_more_intelligible(name: str, corpora: Path) -> None:
    """Recordings that it was trained on: this finds broken weights, the card has the scores out of fold."""
    model, gains, levels = loaded(name), [], []
    for file in sorted((corpora / "throat_pairs_2" / "throat").glob("*.flac"))[:4]:
        body, air = read(file), read(corpora / "throat_pairs_2" / "air" / file.name)
        restored = enhance_signal(model, body[None])[0]
        gains.append(stoi(restored, air) - stoi(body, air))
        levels.append(20 * torch.log10(restored.norm() / body.norm()))
    card = read_card(SHIPPED / name / "card.yaml")
    assert card is not None
    assert card.scores is not None
    assert np.mean(gains) > card.scores.metrics["stoi"].change / 2
    assert min(gains) > 0
    assert -5 < np.mean(levels) < -1  # dB; the card says some 3 dB quieter


@pytest.mark.corpora
def test_fusion_is_better_than_either_sensor(corpora: Path) -> None:
    model = loaded("fusion")
    file = corpora / "throat_pairs_2" / "throat" / "20.flac"
    body, air = read(file), read(corpora / "throat_pairs_2" / "air" / file.name)
    noise = read(corpora / "noise" / "coffee-shop.flac")[: len(air)]
    noisy = air + noise * air.norm() / noise.norm()  # 0 dB
    fused = stoi(enhance_signal(model, torch.stack([body, noisy]))[0], air)
    assert fused > max(stoi(body, air), stoi(noisy, air)) + 0.05


@pytest.mark.corpora
def test_the_empty_band_is_filled(corpora: Path) -> None:
    model = loaded("bandwidth_8k")
    wide = read(min((corpora / "librispeech_clips" / "valid").rglob("*.flac")))[: 4 * RATE]
    narrow = resample(resample(wide, RATE, RATE // 2), RATE // 2, RATE)
    distance = Lsd()
    before = distance.score(narrow.numpy(), wide.numpy(), RATE)["lsd"]
    after = distance.score(enhance_signal(model, narrow[None])[0].numpy(), wide.numpy(), RATE)["lsd"]
    assert after < before / 2
