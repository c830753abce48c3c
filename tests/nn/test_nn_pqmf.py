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
    """A tone of amplitude 1; the frequency is a fraction of the Nyquist frequency."""
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
    assert snr(x, reconstruct(PQMF(4, 32, cutoff=0.15), x)) < 30, "the reconstruction depends on the cutoff"


def test_the_cutoff_is_searched_once_per_size() -> None:
    PQMF(4, 40)
    before = search_cutoff.cache_info()
    PQMF(4, 40)
    after = search_cutoff.cache_info()
    assert after.misses == before.misses
    assert after.hits == before.hits + 1


@pytest.mark.parametrize(("bands", "taps"), [(2, 16), (2, 17), (3, 24), (3, 25), (5, 40), (7, 57), (16, 128)])
def test_reconstruction_works_with_any_number_of_bands_and_even_or_odd_taps(bands: int, taps: int) -> None:
    bank, x = PQMF(bands, taps), noise(4001)
    assert snr(x, reconstruct(bank, x)) > 48


@pytest.mark.parametrize(("bands", "taps"), [(4, 32), (3, 25)])
def test_frames_cover_any_length(bands: int, taps: int) -> None:
    bank = PQMF(bands, taps)
    for samples in (1, 2, 3, 4, 5, 31, 32, 33, 100):
        split = bank.analysis(noise(samples, batch=2))
        assert split.shape == (2, bands, math.ceil(samples / bands))
        assert bank.synthesis(split).shape == (2, 1, bands * split.shape[-1])


def test_reconstruction_is_incomplete_only_near_the_ends_and_nowhere_after_padding_by_the_edge() -> None:
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
        measured = amplitudes(bank, tone((k + 0.5) / bands))
        assert abs(float(measured[k]) - 1) < 0.02
        others = torch.cat([measured[:k], measured[k + 1 :]])
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
    torch.manual_seed(0)
    bank = PQMF(3, 25).to(torch.float64)
    x, split = torch.randn(1, 1, 90, dtype=torch.float64), torch.randn(1, 3, 30, dtype=torch.float64)
    analysed, joined = 3 * (bank.analysis(x) * split).sum(), (x * bank.synthesis(split)).sum()
    torch.testing.assert_close(analysed, joined, rtol=0, atol=1e-4)  # both sets of filters are rounded to float32


@pytest.mark.parametrize("wanted", [slice(1), slice(2), slice(-3, None), slice(1, 3), slice(None)], ids=str)
def test_a_subset_of_the_bands_equals_those_of_the_full_analysis(wanted: slice) -> None:
    bank, x = PQMF(4, 32), noise(333, batch=2)
    torch.testing.assert_close(bank.analysis(x, wanted), bank.analysis(x)[:, wanted])


CAUSAL = [(2, 16), (3, 24), (3, 25), (4, 32), (4, 64), (5, 40)]


@pytest.mark.parametrize(("bands", "taps"), CAUSAL)
def test_the_causal_bank_is_the_centred_one_delayed_by_taps_minus_bands(bands: int, taps: int) -> None:
    bank, centred = PQMF(bands, taps, causal=True).double(), PQMF(bands, taps).double()
    assert (bank.lookahead, bank.edge, centred.lookahead) == (taps - bands, 0, 0)
    before = centred.right  # samples that a frame of the centred bank sees past its end
    x = noise(600).double()
    split = bank.analysis(x)
    torch.testing.assert_close(split, centred.analysis(F.pad(x, (before, 0)))[..., : split.shape[-1]])
    after = bank.lookahead - before  # samples that the centred synthesis drops at the head
    torch.testing.assert_close(bank.synthesis(split)[..., after:], centred.synthesis(split)[..., :-after])


@pytest.mark.parametrize(("bands", "taps", "published"), [(4, 32, 49.1), (4, 64, 61.6), (8, 64, 50.0)])
def test_the_causal_bank_reconstructs_equally_well_from_the_first_sample_to_the_last(
    bands: int, taps: int, published: float
) -> None:
    bank, x = PQMF(bands, taps, causal=True), noise(32768)
    late = bank.synthesis(bank.analysis(F.pad(x, (0, bank.lookahead))))[..., bank.lookahead : bank.lookahead + 32768]
    assert snr(x, late) > published
    for end in (slice(64), slice(-64, None)):
        assert snr(x[..., end], late[..., end]) > published - 5


@pytest.mark.parametrize(("bands", "taps"), CAUSAL)
def test_an_impulse_comes_out_taps_minus_bands_samples_later_and_not_before_its_frame(bands: int, taps: int) -> None:
    bank = PQMF(bands, taps, causal=True).double()
    position = 40 * bands - 1
    x = torch.zeros(1, 1, 80 * bands, dtype=torch.float64)
    x[..., position] = 1
    response = bank.synthesis(bank.analysis(x))[0, 0]
    assert int(response.argmax()) == position + bank.lookahead
    assert abs(float(response.max()) - 1) < 0.02
    assert not response[: position + 1 - bands].any()


@pytest.mark.parametrize(("bands", "taps"), CAUSAL)
def test_chunks_give_the_output_of_the_whole_file(bands: int, taps: int) -> None:
    bank = PQMF(bands, taps, causal=True, channels=2).double()
    x = torch.randn(3, 2, 26 * bands, dtype=torch.float64)
    whole = bank.analysis(x)
    joined = bank.synthesis(whole[:, :bands])
    for frames in (1, 2, 3, 7, 26):
        with bank.streaming(3):
            chunks = [bank.analysis(chunk) for chunk in x.split(frames * bands, dim=-1)]
            assert (torch.cat(chunks, dim=-1) - whole).abs().max() < 1e-10
            parts = [bank.synthesis(chunk[:, :bands]) for chunk in chunks]
            assert (torch.cat(parts, dim=-1) - joined).abs().max() < 1e-10


def test_analysis_and_synthesis_each_keep_their_own_state() -> None:
    bank = PQMF(4, 32, causal=True, channels=3)
    with bank.streaming(2):
        before = bank.get_state()
        assert {name: tuple(kept.shape) for name, kept in before.items()} == {"past": (2, 3, 28), "overlap": (2, 1, 28)}
        x = torch.randn(2, 3, 40)
        split = bank.analysis(x, slice(2))
        assert torch.equal(bank.get_state()["past"], x[..., -28:])
        assert not bank.get_state()["overlap"].any()
        bank.synthesis(split[:, :2].repeat(1, 2, 1))
        assert bank.get_state()["overlap"].any()
        assert not before["past"].any(), "a state that has been read is not modified"


@pytest.mark.parametrize("causal", [False, True])
def test_channels_are_split_separately_and_stay_in_order(causal: bool) -> None:
    bank, x = PQMF(4, 32, causal=causal, channels=3), torch.randn(2, 3, 333)
    split = bank.analysis(x, slice(2))
    alone = [PQMF(4, 32, causal=causal).analysis(x[:, sensor : sensor + 1], slice(2)) for sensor in range(3)]
    torch.testing.assert_close(split, torch.cat(alone, dim=1))


def test_a_stream_in_bfloat16_keeps_the_bands_in_full_precision() -> None:
    bank, x = PQMF(4, 32, causal=True), noise(4096)
    with torch.autocast("cpu", dtype=torch.bfloat16), bank.streaming(1):
        y = torch.cat([bank.synthesis(bank.analysis(chunk)) for chunk in x.split(64, dim=-1)], dim=-1)
    assert y.dtype == torch.float32
    assert snr(x[..., :-28], y[..., 28:]) > 49


def test_the_filters_are_neither_trained_nor_saved_and_move_with_the_network() -> None:
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


def test_the_gradient_reaches_the_waveform() -> None:
    bank, x = PQMF(3, 24), noise(60).requires_grad_()
    bank.synthesis(bank.analysis(x)).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
    assert not any(buffer.requires_grad for buffer in bank.buffers())


@pytest.mark.parametrize("context", [torch.no_grad(), torch.inference_mode()], ids=["no_grad", "inference_mode"])
def test_a_bank_built_without_gradients_passes_gradients_on(context: AbstractContextManager[None]) -> None:
    search_cutoff.cache_clear()
    with context:
        bank = PQMF(4, 32)
    x = noise(64).requires_grad_()
    bank.synthesis(bank.analysis(x)).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(bank.analysis_filters, PQMF(4, 32).analysis_filters)


def test_autocast_does_not_reduce_the_precision_of_the_bands() -> None:
    bank, x = PQMF(4, 32), noise(4096)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = reconstruct(bank, x)
        assert bank.synthesis(bank.analysis(x).bfloat16()).dtype == torch.float32
    assert y.dtype == torch.float32
    assert snr(x, y) > 49


def test_invalid_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels=0"):
        PQMF(channels=0)
    for bands, taps, beta, cutoff in ((1, 32, 9.0, None), (4, 8, 9.0, None), (4, 32, -1.0, None), (4, 32, 9.0, 1.0)):
        with pytest.raises(ConfigError, match="PQMF: "):
            PQMF(bands, taps, beta, cutoff)


def test_signals_of_another_shape_are_refused() -> None:
    bank = PQMF(4, 32)
    with pytest.raises(AudioError, match=r"\(2, 2, 100\)"):
        bank.analysis(torch.zeros(2, 2, 100))
    with pytest.raises(AudioError, match="4 bands"):
        bank.synthesis(torch.zeros(2, 3, 25))
    with pytest.raises(AudioError, match=r"\(batch, 2, time\), not \(2, 1, 100\)"):
        PQMF(4, 32, channels=2).analysis(torch.zeros(2, 1, 100))
    with pytest.raises(StreamingError, match="PQMF is not causal"), bank.streaming(1):
        pass
    bank = PQMF(4, 32, causal=True)
    with bank.streaming(1), pytest.raises(StreamingError, match="30 samples is not a multiple of the 4 bands"):
        bank.analysis(torch.zeros(1, 1, 30))
