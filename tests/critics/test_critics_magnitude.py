from __future__ import annotations

import pytest
import torch

from bcfusion.critics.magnitude import MagnitudeCritic
from bcfusion.errors import ConfigError


def test_the_docstring_states_the_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in MagnitudeCritic().parameters()) == 181_650
    assert "181,650 parameters" in (MagnitudeCritic.__doc__ or "")


def test_a_common_level_changes_nothing_and_a_level_of_the_estimate_alone_does() -> None:
    torch.manual_seed(0)
    critic = MagnitudeCritic(channels=4).eval()
    estimate, target = 0.1 * torch.randn(2, 2, 1, 8192)
    with torch.no_grad():
        score = critic(estimate, target)
        torch.testing.assert_close(critic(0.1 * estimate, 0.1 * target), score)
        assert (critic(0.1 * estimate, target) - score).abs().min() > 1e-6


def test_items_are_judged_alone() -> None:
    torch.manual_seed(0)
    critic = MagnitudeCritic(channels=4).eval()
    estimate, target = 0.1 * torch.randn(2, 3, 1, 8192)
    with torch.no_grad():
        torch.testing.assert_close(critic(estimate, target)[1:2], critic(estimate[1:2], target[1:2]))


def test_a_spectrogram_is_the_compressed_magnitude() -> None:
    critic = MagnitudeCritic(channels=1, n_fft=64, hop_length=32, compression=0.5)
    signal = torch.randn(1, 2, 4096)
    frame = torch.fft.rfft(signal[0, 1, 320 - 32 : 320 + 32] * critic.window)  # centred on the hop of index 10
    expected = (frame.abs().square() + 1e-6).pow(0.25)
    torch.testing.assert_close(critic._spectrograms(signal)[0, 1, :, 10], expected)


def test_signals_that_are_too_short_or_differ_are_refused() -> None:
    critic = MagnitudeCritic(channels=1)
    short = torch.zeros(1, 1, critic.least_samples - 1)
    with pytest.raises(ValueError, match=str(critic.least_samples)):
        critic(short, short)
    with pytest.raises(ValueError, match="two signals"):
        critic(torch.zeros(1, 1, 8192), torch.zeros(2, 1, 8192))


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"n_fft": 16}, {"hop_length": 1024}, {"compression": 0.0}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MagnitudeCritic(**wrong)  # type: ignore[arg-type]
