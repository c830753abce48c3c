"""Every entry of conf/critics learns a score of its own metric, from a network that fulfils the Critic contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bcfusion.contracts import Critic
from bcfusion.training.metric_gan import MetricGan

FILES = sorted((Path(__file__).parents[2] / "conf" / "critics").glob("*.yaml"))


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def critic(request: pytest.FixtureRequest) -> MetricGan:
    group = OmegaConf.load(request.param)
    assert isinstance(group, DictConfig)
    assert list(group) == [request.param.stem], "an entry of a list group has its file name as key"
    root = OmegaConf.create({"sample_rate": 16000, "critics": group})
    torch.manual_seed(0)
    built = instantiate(root.critics[request.param.stem])
    assert isinstance(built, MetricGan)
    return built


def test_the_group_is_not_empty() -> None:
    assert "metric_gan" in {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_file_opens_with_its_command_and_explains_every_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# bcfusion "), "the first line is the command that uses the file"
    silent = [line for line in lines[1:] if ": " in line and "arget_" not in line and "#" not in line]
    assert not [line for line in silent if "_partial_" not in line and " lr:" not in line], "keys without a comment"


def test_predictions_are_normalised_scores_with_a_gradient_to_the_estimate(critic: MetricGan) -> None:
    network = critic.network
    assert isinstance(network, Critic)
    shapes = [(3, 1, critic.least_samples), (1, 1, critic.least_samples + 777)]
    for shape in shapes:
        estimate = (0.07 * torch.randn(shape)).requires_grad_()
        scores = network(estimate, 0.07 * torch.randn(shape))
        assert scores.shape == shape[:1]
        assert scores.dtype == torch.float32
        assert ((scores > 0) & (scores < 1)).all()
        (gradient,) = torch.autograd.grad(scores.sum(), [estimate])
        assert gradient.isfinite().all()
        assert (gradient.abs().amax((1, 2)) > 0).all()


def test_silence_and_full_scale_are_judged(critic: MetricGan) -> None:
    silence, square = torch.zeros(1, 1, 8192), torch.ones(1, 1, 8192)
    square[..., ::2] = -1.0
    for estimate in (silence, square):
        for target in (silence, square):
            estimate = estimate.clone().requires_grad_()
            score = critic.network(estimate, target)
            (gradient,) = torch.autograd.grad(score.sum(), [estimate])
            assert score.isfinite().all()
            assert gradient.isfinite().all()
