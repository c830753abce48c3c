from __future__ import annotations

import pytest
import torch

from bcfusion.generators.voicefixer import VoiceFixerMel
from bcfusion.losses.generator_log_mel import GeneratorLogMelLoss

SIZES = {"n_fft": 256, "hop_length": 64, "win_length": 256, "n_mels": 20}
LENGTHS = torch.tensor([3000, 1237, 64, 1])


def speech(batch: int = 4, samples: int = 3000) -> torch.Tensor:
    return 0.07 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def loss() -> GeneratorLogMelLoss:
    return GeneratorLogMelLoss(16000, **SIZES)


@pytest.mark.parametrize("samples", [1, 63, 64, 3000])
def test_it_is_zero_for_the_log_mel_of_the_target(loss: GeneratorLogMelLoss, samples: int) -> None:
    network = VoiceFixerMel(**SIZES, channels=(2, 2), blocks=1).eval()
    torch.nn.init.zeros_(network.unet.last.weight)
    target = speech(2, samples)
    with torch.no_grad():
        output = network(target)
    lengths = torch.full((2,), samples)
    assert float(loss(output["log_mel"], target, lengths)) < 1e-5
    assert float(loss(output["log_mel"] + 0.5, target, lengths)) == pytest.approx(0.5, abs=1e-4)


def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds(loss: GeneratorLogMelLoss) -> None:
    target, log_mel = speech(), torch.randn(4, 20, 3000 // 64 + 1, generator=torch.Generator().manual_seed(1))
    alone = []
    for item, length in enumerate(LENGTHS.tolist()):
        frames = length // 64 + 1
        own = slice(item, item + 1)
        alone.append(loss(log_mel[own, :, :frames], target[own, :, :length], LENGTHS[own]))
        target[item, :, length:], log_mel[item, :, frames:] = torch.nan, torch.nan
    log_mel.requires_grad_()
    batch = loss(log_mel, target, LENGTHS)
    torch.testing.assert_close(batch, torch.stack(alone).mean())
    batch.backward()
    assert log_mel.grad is not None
    assert log_mel.grad.isfinite().all()
    assert all(not log_mel.grad[i, :, n // 64 + 1 :].any() for i, n in enumerate(LENGTHS.tolist()))


def test_an_empty_item_adds_nothing(loss: GeneratorLogMelLoss) -> None:
    log_mel = torch.zeros(2, 20, 3000 // 64 + 1)
    both = loss(log_mel, speech(2), torch.tensor([3000, 0]))
    torch.testing.assert_close(both, loss(log_mel[:1], speech(2)[:1], torch.tensor([3000])) / 2)


def test_it_is_float32_under_autocast(loss: GeneratorLogMelLoss) -> None:
    log_mel, lengths = torch.zeros(1, 20, 3000 // 64 + 1), torch.tensor([3000])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(log_mel.bfloat16(), speech(1), lengths)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(log_mel, speech(1), lengths))


def test_frames_of_other_settings_are_refused_with_both_shapes(loss: GeneratorLogMelLoss) -> None:
    with pytest.raises(ValueError, match=r"\(1, 24, 47\).*\(1, 20, 47\)"):
        loss(torch.zeros(1, 24, 47), speech(1), torch.tensor([3000]))
