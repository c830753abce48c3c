from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.ap_bwe import ApBwe
from bcfusion.losses.inconsistency import InconsistencyLoss

SIZES = {"n_fft": 256, "hop_length": 64, "win_length": 256}
T = 3200


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def torch_stft(signal: Tensor) -> Tensor:
    window = torch.hann_window(256)
    return torch.stft(signal, 256, 64, window=window, pad_mode="constant", return_complex=True)  # (B, F, N)


def as_parts(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum.contiguous())


def test_the_spectrum_of_a_signal_costs_nothing_and_another_gain_its_square() -> None:
    signal = 0.1 * random(2, T)
    spectrum, full = torch_stft(signal), torch.full((2,), T)
    loss = InconsistencyLoss(**SIZES)
    assert loss(as_parts(spectrum), signal[:, None], full).item() == pytest.approx(0.0, abs=1e-8)
    power = spectrum.abs().square().mean()
    torch.testing.assert_close(loss(as_parts(1.5 * spectrum), signal[:, None], full), 0.25 * power)


def test_of_any_numbers_it_is_what_the_inverse_transform_and_the_transform_lose() -> None:
    spectrum = torch.complex(random(2, 129, T // 64 + 1), random(2, 129, T // 64 + 1, seed=1))
    spectrum[:, [0, -1]] = spectrum[:, [0, -1]].real.to(spectrum.dtype)  # as of a real signal
    signal = torch.istft(spectrum, 256, 64, window=torch.hann_window(256), length=T)
    lost = (spectrum - torch_stft(signal)).abs().square().mean()
    assert lost > 0.5
    loss = InconsistencyLoss(**SIZES)(as_parts(spectrum), signal[:, None], torch.full((2,), T))
    torch.testing.assert_close(loss, lost)


def test_compressed_spectra_are_compared_with_their_phases() -> None:
    signal = 0.1 * random(2, T)
    spectrum, full = torch_stft(signal), torch.full((2,), T)
    loss = InconsistencyLoss(**SIZES, compression=0.3, floor=1e-12)
    assert loss(as_parts(spectrum), signal[:, None], full).item() == pytest.approx(0.0, abs=1e-6)
    compressed = spectrum.abs().pow(0.6).mean()  # the power of compressed magnitudes
    torch.testing.assert_close(loss(as_parts(32 * spectrum), signal[:, None], full), (32**0.3 - 1) ** 2 * compressed)
    torch.testing.assert_close(loss(as_parts(-spectrum), signal[:, None], full), 4 * compressed)
    with pytest.raises(ConfigError, match=r"compression=1\.5 must be above 0 and at most 1"):
        InconsistencyLoss(**SIZES, compression=1.5)


def test_it_measures_the_spectrum_of_ap_bwe_in_its_own_domain() -> None:
    torch.manual_seed(0)
    network = ApBwe(n_fft=320, channels=8, blocks=2)
    sizes = {"n_fft": 320, "hop_length": 80, "win_length": 320}
    signal = 0.1 * random(2, 1, T)
    output = network(signal)
    full = torch.full((2,), T)
    loss = InconsistencyLoss(**sizes)(output["spectrum"], output["estimate"], full)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.to_amplitude.parameters())
    # the untrained network returns nearly its input, whose spectrum is consistent
    power = output["spectrum"].square().sum(-1).mean()
    assert 0 < loss < 0.05 * power


def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds() -> None:
    lengths = torch.tensor([T, 1237, 1])
    signal, spectrum = random(3, 1, T), random(3, 129, T // 64 + 1, 2, seed=1)
    loss = InconsistencyLoss(**SIZES)
    alone = []
    for i, length in enumerate(lengths.tolist()):
        frames, own = length // 64 + 1, slice(i, i + 1)
        alone.append(loss(spectrum[own, :, :frames], signal[own, :, :length], lengths[own]))
        signal[i, :, length:], spectrum[i, :, frames:] = torch.nan, torch.nan
    spectrum.requires_grad_()
    batch = loss(spectrum, signal, lengths)
    torch.testing.assert_close(batch, torch.stack(alone).mean())
    batch.backward()
    assert spectrum.grad is not None
    assert spectrum.grad.isfinite().all()


def test_a_spectrum_of_another_stft_is_refused() -> None:
    with pytest.raises(ValueError, match="spectrum has"):
        InconsistencyLoss(**SIZES)(torch.zeros(1, 65, 51, 2), torch.zeros(1, 1, T), torch.tensor([T]))
