"""Every entry of conf/discriminators fulfils the Discriminator contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from bcfusion.contracts import Judgement

FILES = sorted((Path(__file__).parents[2] / "conf" / "discriminators").glob("*.yaml"))


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def model(request: pytest.FixtureRequest) -> nn.Module:
    group = OmegaConf.load(request.param)
    assert isinstance(group, DictConfig)
    assert list(group) == [request.param.stem], "an entry of a list group has its file name as key"
    root = OmegaConf.create({"sample_rate": 16000, "discriminators": group})
    torch.manual_seed(0)
    built: nn.Module = instantiate(root.discriminators[request.param.stem])
    return built


def test_the_group_is_not_empty() -> None:
    assert "melgan_msd" in {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# bcfusion "), "the first line is the command that uses the file"
    silent = [line for line in lines[1:] if ": " in line and "_target_" not in line and "#" not in line]
    assert not silent, "keys without a comment"


def test_judgements_are_logits_and_hidden_activations(model: nn.Module) -> None:
    x = 0.07 * torch.randn(2, 1, 4096)
    judgements = model(x)
    assert judgements
    for judgement in judgements:
        assert isinstance(judgement, Judgement)
        assert judgement.features
        for tensor in (judgement.logits, *judgement.features):
            assert tensor.shape[0] == 2
            assert tensor.isfinite().all()
        for feature in judgement.features:
            assert feature.numel() != x.numel() or not torch.equal(feature.reshape(x.shape), x)
            assert feature.data_ptr() != judgement.logits.data_ptr()


@pytest.mark.slow
def test_any_waveform_of_at_least_one_sample_is_judged(model: nn.Module) -> None:
    with torch.inference_mode():
        for samples in (1, 2, 3, 17, 255, 256, 257):
            assert all(judgement.logits.numel() for judgement in model(torch.randn(1, 1, samples)))


@pytest.mark.slow
def test_an_item_does_not_depend_on_its_neighbours_in_the_batch(model: nn.Module) -> None:
    batch = 0.07 * torch.randn(3, 1, 3000)
    model.eval()  # in training mode the power iteration of spectral norm changes the weights between the two passes
    with torch.inference_mode():
        for together, alone in zip(model(batch), model(batch[1:2]), strict=True):
            torch.testing.assert_close(together.logits[1:2], alone.logits, atol=1e-5, rtol=1e-4)
    model.train()


@pytest.mark.slow
def test_the_gradient_reaches_the_waveform_and_every_parameter(model: nn.Module) -> None:
    x = (0.07 * torch.randn(2, 1, 4096)).requires_grad_()
    torch.stack([judgement.logits.square().mean() for judgement in model(x)]).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()


def test_frozen_discriminators_still_pass_the_gradient_to_the_waveform(model: nn.Module) -> None:
    """The generator's step needs no gradient of the discriminators' parameters."""
    x = (0.07 * torch.randn(1, 1, 2048)).requires_grad_()
    model.requires_grad_(False)
    torch.stack([judgement.logits.mean() for judgement in model(x)]).sum().backward()
    model.requires_grad_(True)
    assert x.grad is not None
    assert x.grad.any()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_silence_is_judged_with_finite_gradients(model: nn.Module) -> None:
    torch.stack([judgement.logits.square().mean() for judgement in model(torch.zeros(1, 1, 2048))]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()
