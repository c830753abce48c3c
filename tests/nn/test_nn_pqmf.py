from __future__ import annotations

import math
from contextlib import AbstractContextManager
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.errors import AudioError, ConfigError
from bcfusion.nn.pqmf import PQMF, search_cutoff
from bcfusion.nn.streaming import StreamingError


def noise(samples: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(0))


def tone(frequency: float, samples: int = 8000) -> Tensor:
    """Of amplitude 1; the frequency is a fraction of the Nyquist frequency."""
    return torch.sin(math.pi * frequency * torch.arange(samples, dtype=torch.float64)).view(1, 1, -1)


def reconstruct(bank: PQMF, x: Tensor) -> Tensor:
    padded = F.pad(x, (bank.edge, bank.edge))
    return bank.synthesis(bank.analysis(padded))[..., bank.edge : bank.edge + x.shape[-1]]


def snr(x: Tensor, y: Tensor) -> float:
    return float(10 * torch.log10(x.square().sum() / (x - y).square().sum()))


def amplitudes(bank: PQMF, x: Tensor) -> Tensor:
    inner = bank.to(x.dtype).analysis(x)[0, :, bank.taps : -bank.taps]
    return (2 * inner.square().mean(dim=1)).sqrt()


@pytest.mark.parametrize(("bands", "taps", "published"), [(4, 32, 49.1), (4, 64, 61.6), (8, 64, 50.0)])
def test_white_noise_is_reconstructed_as_well_as_published(bands: int, taps: int, published: float) -> None:
    x = noise(32768)
    assert snr(x, reconstruct(PQMF(bands, taps), x)) > published


def test_the_cutoff_of_four_bands_with_32_taps_is_the_published_one() -> None:
    step = (1 / 4 - 1 / 8) / 4000
    assert abs(PQMF(4, 32).cutoff - 0.158867) < step / 2
    assert abs(PQMF(4, 32, cutoff=0.15).cutoff - 0.15) < 1e-12
    x = noise(8192)
    assert snr(x, reconstruct(PQMF(4, 32, cutoff=0.15), x)) < 30, "the cutoff is what the reconstruction hangs on"


def test_the_cutoff_is_searched_once_for_every_size() -> None:
    PQMF(4, 40)
    before = search_cutoff.cache_info()
    PQMF(4, 40)
    after = search_cutoff.cache_info()
    assert after.misses == before.misses
    assert after.hits == before.hits + 1


@pytest.mark.parametrize(("bands", "taps"), [(2, 16), (2, 17), (3, 24), (3, 25), (5, 40), (7, 57), (16, 128)])
def test_any_number_of_bands_and_any_parity_of_taps_reconstructs(bands: int, taps: int) -> None:
    bank, x = PQMF(bands, taps), noise(4001)
    assert snr(x, reconstruct(bank, x)) > 48


@pytest.mark.parametrize(("bands", "taps"), [(4, 32), (3, 25)])
def test_frames_cover_any_length(bands: int, taps: int) -> None:
    bank = PQMF(bands, taps)
    for samples in (1, 2, 3, 4, 5, 31, 32, 33, 100):
        split = bank.analysis(noise(samples, batch=2))
        assert split.shape == (2, bands, math.ceil(samples / bands))
        assert bank.synthesis(split).shape == (2, 1, bands * split.shape[-1])


def test_a_file_is_incomplete_only_near_its_ends_and_not_if_padded_by_the_edge() -> None:
    bank, x = PQMF(4, 64), noise(4000)
    bare = bank.synthesis(bank.analysis(x))
    inner = slice(bank.edge, -bank.edge)
    assert snr(x[..., inner], bare[..., inner]) > 60
    assert snr(x[..., : bank.edge], bare[..., : bank.edge]) < 30
    whole = reconstruct(bank, x)
    assert snr(x[..., : bank.edge], whole[..., : bank.edge]) > 55
    assert snr(x[..., -bank.edge :], whole[..., -bank.edge :]) > 55


@pytest.mark.parametrize("bands", [2, 3, 4, 5, 8])
def test_a_tone_is_in_its_own_band_with_its_own_amplitude(bands: int) -> None:
    bank = PQMF(bands, 16 * bands)
    for k in range(bands):
        heard = amplitudes(bank, tone((k + 0.5) / bands))
        assert abs(float(heard[k]) - 1) < 0.02
        others = torch.cat([heard[:k], heard[k + 1 :]])
        assert others.max() < 0.01, "40 dB below"


def test_the_filters_of_ebens_bank_leave_bands_that_are_not_neighbours_90_db_below() -> None:
    bank = PQMF(4, 32)
    for k, other in product(range(4), range(4)):
        if abs(k - other) > 1:
            assert amplitudes(bank, tone((k + 0.5) / 4))[other] < 10 ** (-90 / 20)


def test_a_constant_is_in_the_lowest_band_alone() -> None:
    bank = PQMF(4, 64)
    split = bank.analysis(torch.ones(1, 1, 1000))[0, :, 100]
    torch.testing.assert_close(split, torch.tensor([1.0, 0.0, 0.0, 0.0]), atol=2e-3, rtol=0)


def test_every_band_of_white_noise_has_the_same_share_of_its_power() -> None:
    x = noise(200_000)
    shares = PQMF(5, 40).analysis(x).var(dim=2)[0] / x.var()
    torch.testing.assert_close(shares, torch.full((5,), 1 / 5), rtol=0.03, atol=0)


def test_the_bank_has_no_delay() -> None:
    bank = PQMF(4, 32).to(torch.float64)
    for position in (100, 101, 102, 103):
        x = torch.zeros(1, 1, 200, dtype=torch.float64)
        x[..., position] = 1
        response = bank.synthesis(bank.analysis(x))[0, 0]
        assert int(response.argmax()) == position
        assert abs(float(response[position]) - 1) < 0.01


def test_synthesis_is_the_adjoint_of_analysis_times_the_number_of_bands() -> None:
    bank = PQMF(3, 25).to(torch.float64)
    x, split = torch.randn(1, 1, 90, dtype=torch.float64), torch.randn(1, 3, 30, dtype=torch.float64)
    torch.testing.assert_close(3 * (bank.analysis(x) * split).sum(), (x * bank.synthesis(split)).sum())


@pytest.mark.parametrize("wanted", [slice(1), slice(2), slice(-3, None), slice(1, 3), slice(None)], ids=str)
def test_some_bands_are_those_of_all(wanted: slice) -> None:
    bank, x = PQMF(4, 32), noise(333, batch=2)
    torch.testing.assert_close(bank.analysis(x, wanted), bank.analysis(x)[:, wanted])


@pytest.mark.parametrize(("bands", "taps"), [(4, 32), (3, 24), (3, 25), (5, 38)])
def test_spans_are_exactly_what_poison_reaches(bands: int, taps: int) -> None:
    bank = PQMF(bands, taps)
    for position in range(300, 300 + bands):
        x = torch.zeros(1, 1, 600)
        x[..., position] = torch.nan
        spans = [bank.analysis_span(frame, frame) for frame in range(600 // bands)]
        reached = torch.tensor([first <= position <= last for first, last in spans])
        assert torch.equal(bank.analysis(x)[0, 0].isnan(), reached)
    split = torch.zeros(1, bands, 100)
    split[..., 50] = torch.nan
    spans = [bank.synthesis_span(sample, sample) for sample in range(100 * bands)]
    assert torch.equal(
        bank.synthesis(split)[0, 0].isnan(), torch.tensor([first <= 50 <= last for first, last in spans])
    )


def test_the_filters_are_neither_learnt_nor_saved_and_move_with_the_network() -> None:
    bank = PQMF(4, 32)
    assert not list(bank.parameters())
    assert not bank.state_dict()
    assert {name for name, _ in bank.named_buffers()} == {"analysis_filters", "synthesis_filters"}
    bank.to(torch.float64)
    x = noise(256).to(torch.float64)
    assert bank.analysis(x).dtype == torch.float64
    assert bank.synthesis(bank.analysis(x)).dtype == torch.float64
    with torch.device("meta"):
        assert PQMF(4, 32).analysis(torch.empty(2, 1, 64)).shape == (2, 4, 16)


def test_the_gradient_passes_through_to_the_waveform() -> None:
    bank, x = PQMF(3, 24), noise(60).requires_grad_()
    bank.synthesis(bank.analysis(x)).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    assert not any(buffer.requires_grad for buffer in bank.buffers())


@pytest.mark.parametrize("context", [torch.no_grad(), torch.inference_mode()], ids=["no_grad", "inference_mode"])
def test_a_bank_that_was_built_without_gradients_can_be_trained_through(context: AbstractContextManager[None]) -> None:
    search_cutoff.cache_clear()
    with context:
        bank = PQMF(4, 32)
    x = noise(64).requires_grad_()
    bank.synthesis(bank.analysis(x)).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(bank.analysis_filters, PQMF(4, 32).analysis_filters)


def test_autocast_does_not_coarsen_the_bands() -> None:
    bank, x = PQMF(4, 32), noise(4096)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = reconstruct(bank, x)
        assert bank.synthesis(bank.analysis(x).bfloat16()).dtype == torch.float32
    assert y.dtype == torch.float32
    assert snr(x, y) > 49


def test_sizes_that_make_no_bank_are_refused() -> None:
    for bands, taps, beta, cutoff in ((1, 32, 9.0, None), (4, 8, 9.0, None), (4, 32, -1.0, None), (4, 32, 9.0, 1.0)):
        with pytest.raises(ConfigError, match="PQMF: "):
            PQMF(bands, taps, beta, cutoff)


def test_signals_of_another_shape_are_refused() -> None:
    bank = PQMF(4, 32)
    with pytest.raises(AudioError, match=r"\(2, 2, 100\)"):
        bank.analysis(torch.zeros(2, 2, 100))
    with pytest.raises(AudioError, match="4 bands"):
        bank.synthesis(torch.zeros(2, 3, 25))
    with pytest.raises(StreamingError, match="PQMF is not causal"), bank.streaming(1):
        pass
