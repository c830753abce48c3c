"""Every conf/losses/*.yaml, shipped now or added later, fulfils the contract of a loss."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bcfusion.contracts import Judgement
from bcfusion.errors import ConfigError

FILES = sorted((Path(__file__).parents[2] / "conf" / "losses").glob("*.yaml"))
KNOWN = {"inputs", "target", "lengths", "noise", "estimate", "estimate_judgements", "target_judgements"}
# by some generators; losses on these outputs are tested in files of their own
PROVIDED = {
    "mask",
    "embedding",
    "mu",
    "log_var",
    "log_mel",
    "log_magnitude",
    "deviation",
    "scale",
    "band_levels",
    "spectrum",
    "prediction",
    "prediction_target",
    "prediction_mask",
    "latent",
    "target_latent",
    "latent_mask",
}

# Losses that are smallest, and known in value, for a perfect estimate. SI-SNR has no zero: it falls without bound.
ZERO_WHEN_PERFECT = {
    "l1",
    "mr_stft",
    "feature_matching",
    "mse",
    "log_bands",
    "log_mel",
    "complex_mse",
    "magnitude_mse",
    "compressed_spectrum",
    "phase",
    "complex_l1",
    "log_amplitude_mse",
    "log_spectrum_mse",
    "rmse",
}


def load(path: Path) -> tuple[nn.Module, float]:
    config = OmegaConf.create({"sample_rate": 16000, "losses": OmegaConf.load(path)})  # for ${sample_rate}
    entry = config.losses[path.stem]
    weight = entry.pop("weight")
    try:
        return instantiate(entry), weight
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError) and "pip install" in str(error.__cause__):
            pytest.skip(str(error.__cause__))  # an optional package
        raise


def arguments(loss: nn.Module) -> list[str]:
    return list(inspect.signature(loss.forward).parameters)


def judge(waveform: Tensor) -> list[Judgement]:
    """A discriminator without biases, whose features are all 0 on silence."""
    generator = torch.Generator().manual_seed(3)
    judgements = []
    for width in (15, 41):
        hidden = torch.tanh(
            nn.functional.conv1d(
                waveform, torch.randn(4, 1, width, generator=generator).to(waveform), padding=width // 2
            )
        )
        deeper = nn.functional.conv1d(hidden, torch.randn(4, 4, 5, generator=generator).to(waveform), padding=2)
        judgements.append(Judgement(logits=deeper.mean(1), features=[hidden, deeper]))
    return judgements


def given(estimate: Tensor, target: Tensor, lengths: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        target_judgements = judge(target)
    return {
        "inputs": 0.5 * target,
        "noise": 0.1 * target,
        "target": target,
        "lengths": lengths,
        "estimate": estimate,
        "estimate_judgements": judge(estimate),
        "target_judgements": target_judgements,
    }


def value(loss: nn.Module, estimate: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
    if PROVIDED & set(arguments(loss)):
        pytest.skip("asks for more than a waveform")
    full = torch.full((estimate.shape[0],), estimate.shape[-1])
    everything = given(estimate, target, full if lengths is None else lengths)
    return loss(**{name: everything[name] for name in arguments(loss)})


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def loss(path: Path) -> nn.Module:
    return load(path)[0]


def test_there_are_losses() -> None:
    assert {"l1", "mr_stft", "si_snr", "feature_matching"} <= {path.stem for path in FILES}


def test_file_is_keyed_by_its_own_name_with_a_weight_and_opens_with_its_command(path: Path) -> None:
    assert list(OmegaConf.load(path)) == [path.stem]
    assert load(path)[1] >= 0
    first = path.read_text().splitlines()[0]
    assert first.startswith("# bcfusion ")
    assert path.stem in first


def test_file_shows_every_setting_of_the_class_at_a_value_it_accepts(path: Path, loss: nn.Module) -> None:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    keys = set(config[path.stem]) - {"_target_", "weight"}
    assert keys == set(inspect.signature(type(loss).__init__).parameters) - {"self", "args", "kwargs"}


def test_asks_only_for_what_a_batch_or_a_network_provides(loss: nn.Module) -> None:
    signature = inspect.signature(loss.forward)
    assert set(signature.parameters) <= KNOWN | PROVIDED
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in signature.parameters.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gives_a_float32_scalar_with_a_gradient(loss: nn.Module, dtype: torch.dtype) -> None:
    estimate = noise(2, 1, 8000, seed=1).to(dtype).requires_grad_()
    result = value(loss, estimate, noise(2, 1, 8000, seed=2).to(dtype))
    assert result.shape == ()
    assert result.dtype == torch.float32
    assert torch.isfinite(result)
    result.backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    assert estimate.grad.abs().max() > 0


def test_is_float32_under_autocast_and_the_same_as_without(loss: nn.Module) -> None:
    if "estimate_judgements" in arguments(loss):
        pytest.skip("the discriminator itself changes under autocast")
    estimate, target = noise(2, 1, 8000, seed=1), noise(2, 1, 8000, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = value(loss, estimate, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, value(loss, estimate, target))


@pytest.mark.slow
@pytest.mark.parametrize("estimate_level", [0.0, 1e-7, 1e-4, 0.1])
@pytest.mark.parametrize("target_level", [0.0, 1e-7, 1e-4, 0.1])
@pytest.mark.parametrize("samples", [1, 300, 8000])
def test_is_finite_on_silence_and_on_items_shorter_than_any_window(
    loss: nn.Module, samples: int, target_level: float, estimate_level: float
) -> None:
    estimate = noise(2, 1, samples, seed=1, level=estimate_level).requires_grad_()
    result = value(loss, estimate, noise(2, 1, samples, seed=2, level=target_level))
    result.backward()
    assert torch.isfinite(result)
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()


def test_is_finite_for_a_perfect_estimate_and_zero_where_it_should_be(path: Path, loss: nn.Module) -> None:
    target = noise(2, 1, 8000)
    estimate = target.clone().requires_grad_()
    result = value(loss, estimate, target)
    result.backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    if path.stem in ZERO_WHEN_PERFECT:
        assert result.item() == pytest.approx(0.0, abs=1e-6)
    assert result < value(loss, 0.9 * target + noise(2, 1, 8000, seed=1, level=0.01), target)


def test_the_loss_of_an_item_does_not_depend_on_the_rest_of_its_batch(loss: nn.Module) -> None:
    levels = torch.tensor([0.3, 0.01, 1e-3, 0.0])[:, None, None]  # the first would dominate a norm over the batch
    target = levels * noise(4, 1, 3000, seed=1, level=1.0)
    estimate = target + 0.3 * levels * noise(4, 1, 3000, seed=2, level=1.0) + noise(4, 1, 3000, seed=3, level=1e-3)
    alone = [value(loss, estimate[i : i + 1], target[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(value(loss, estimate, target), torch.stack(alone).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds(loss: nn.Module) -> None:
    if "lengths" not in arguments(loss):
        pytest.skip("is not masked by lengths")
    lengths = torch.tensor([3000, 1237, 480, 1])
    target, estimate = noise(4, 1, 3000, seed=1), noise(4, 1, 3000, seed=2)
    alone = []
    for i, length in enumerate(lengths.tolist()):
        alone.append(value(loss, estimate[i : i + 1, :, :length], target[i : i + 1, :, :length]))
        target[i, :, length:] = float("nan")
        estimate[i, :, length:] = float("nan")
    estimate.requires_grad_()
    batch = value(loss, estimate, target, lengths)
    torch.testing.assert_close(batch, torch.stack(alone).mean(), rtol=1e-5, atol=1e-6)

    batch.backward()
    assert estimate.grad is not None
    for i, length in enumerate(lengths.tolist()):
        assert torch.count_nonzero(estimate.grad[i, :, length:]) == 0
    assert torch.isfinite(estimate.grad).all()


def test_an_empty_item_adds_nothing(loss: nn.Module) -> None:
    if "lengths" not in arguments(loss):
        pytest.skip("is not masked by lengths")
    target, estimate = noise(2, 1, 3000, seed=1), noise(2, 1, 3000, seed=2)
    batch = value(loss, estimate, target, torch.tensor([3000, 0]))
    torch.testing.assert_close(batch, value(loss, estimate[:1], target[:1]) / 2)


def test_holds_nothing_that_a_checkpoint_would_store(loss: nn.Module) -> None:
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
