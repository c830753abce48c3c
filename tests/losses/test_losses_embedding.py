from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcfusion.losses.embedding import DeepClusteringLoss

T = 480
STFT: dict[str, Any] = {"n_fft": 32, "hop_length": 16, "win_length": 32}
BINS, FRAMES, DIMENSIONS = 17, T // 16 + 1, 5


def white(seed: int, level: float = 0.1, items: int = 1) -> Tensor:
    return level * torch.randn(items, 1, T, generator=torch.Generator().manual_seed(seed))


def embed(seed: int, items: int = 1) -> Tensor:
    return torch.randn(items, BINS, FRAMES, DIMENSIONS, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


def spectrum(signal: Tensor) -> Tensor:
    """``(B, F, N)``, by torch's own transform."""
    return torch.stft(signal[:, 0], 32, 16, 32, torch.hann_window(32), pad_mode="constant", return_complex=True)


def ideal(speech: Tensor, noise: Tensor) -> Tensor:
    """One-hot embedding ``(B, F, N, D)`` of the louder source."""
    louder = (spectrum(speech).abs() >= spectrum(noise).abs()).long()
    return F.one_hot(louder, DIMENSIONS).float()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("active_db", [10.0, 40.0, 400.0])
def test_is_the_distance_of_the_affinity_matrices_of_all_pairs_of_active_bins(
    normalize: bool, unit_norm: bool, active_db: float
) -> None:
    embedding, speech, noise = embed(0), white(1), white(2)
    magnitude = spectrum(speech + noise).abs()
    active = 20 * torch.log10(magnitude / magnitude.max()) >= -active_db
    vectors = embedding[active].double()
    if unit_norm:
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    choice = (spectrum(speech).abs() >= spectrum(noise).abs())[active]
    same = (choice[:, None] == choice[None, :]).double()
    expected = (vectors @ vectors.T - same).square().sum()  # bins x bins
    if normalize:
        expected = expected / active.sum() ** 2
    loss = DeepClusteringLoss(active_db, unit_norm, normalize, **STFT)(embedding, speech, noise, full(speech))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert active.sum() < active.numel() or active_db == 400.0


def test_is_zero_where_each_source_has_its_own_direction() -> None:
    speech, noise = white(1), white(2)
    loss = DeepClusteringLoss(**STFT)
    rotation, _ = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=torch.Generator().manual_seed(0)))
    assert loss(ideal(speech, noise) @ rotation, speech, noise, full(speech)).item() == pytest.approx(0.0, abs=1e-5)
    # It does not matter which of the two directions stands for speech.
    swapped = ideal(speech, noise)[..., [1, 0, 2, 3, 4]]
    assert loss(swapped, speech, noise, full(speech)).item() == pytest.approx(0.0, abs=1e-5)


def test_one_direction_for_all_costs_the_share_of_pairs_of_different_sources() -> None:
    speech, noise = white(1), white(2)
    share = (spectrum(speech).abs() >= spectrum(noise).abs()).float().mean().item()
    one = torch.ones(1, BINS, FRAMES, DIMENSIONS)
    loss = DeepClusteringLoss(active_db=400.0, **STFT)(one, speech, noise, full(speech))
    assert loss.item() == pytest.approx(2 * share * (1 - share), rel=1e-4)


def test_inactive_bins_do_not_count_and_get_no_gradient() -> None:
    speech, noise = white(1), white(2)
    magnitude = spectrum(speech + noise).abs()
    inactive = magnitude < 10 ** (-10 / 20) * magnitude.max()
    loss, embedding = DeepClusteringLoss(active_db=10.0, **STFT), embed(0)
    before = loss(embedding, speech, noise, full(speech))
    embedding[inactive] = float("nan")
    embedding.requires_grad_()
    after = loss(embedding, speech, noise, full(speech))
    torch.testing.assert_close(after, before)
    after.backward()
    assert embedding.grad is not None
    assert torch.count_nonzero(embedding.grad[inactive]) == 0
    assert torch.isfinite(embedding.grad).all()
    assert embedding.grad[~inactive].abs().max() > 0


def test_the_scale_of_embeddings_counts_only_without_unit_norm() -> None:
    speech, noise, embedding = white(1), white(2), embed(0)
    for unit_norm in (True, False):
        loss = DeepClusteringLoss(unit_norm=unit_norm, **STFT)
        small, large = (loss(gain * embedding, speech, noise, full(speech)).item() for gain in (0.1, 3.0))
        assert (small == pytest.approx(large, rel=1e-4)) == unit_norm


@pytest.mark.parametrize("speech_level", [0.0, 1e-7, 0.1])
@pytest.mark.parametrize("noise_level", [0.0, 1e-7, 0.1])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_is_finite_on_silence_and_for_embeddings_of_nothing(
    speech_level: float, noise_level: float, scale: float
) -> None:
    embedding = (scale * embed(0)).requires_grad_()
    loss = DeepClusteringLoss(**STFT)(embedding, white(1, speech_level), white(2, noise_level), torch.tensor([T]))
    loss.backward()
    assert torch.isfinite(loss)
    assert embedding.grad is not None
    assert torch.isfinite(embedding.grad).all()
    assert embedding.grad.abs().max() < 1e4
    if speech_level == noise_level == 0.0:
        assert loss.item() == 0.0


def test_the_loss_of_an_item_does_not_depend_on_the_rest_of_its_batch() -> None:
    levels = torch.tensor([0.5, 1e-3, 0.0])[:, None, None]
    embedding, speech, noise = embed(0, 3), levels * white(1, items=3), levels * white(2, items=3)
    loss = DeepClusteringLoss(**STFT)
    alone = [loss(*(x[i : i + 1] for x in (embedding, speech, noise)), torch.tensor([T])) for i in range(3)]
    torch.testing.assert_close(loss(embedding, speech, noise, full(speech)), torch.stack(alone).mean())


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds(normalize: bool) -> None:
    lengths = torch.tensor([T, 238, 1, 0])
    embedding, speech, noise = embed(0, 4), white(1, items=4), white(2, items=4)
    speech[1, :, 230:] *= 100  # reaches the frame past the end too, which must not set the threshold
    loss = DeepClusteringLoss(normalize=normalize, active_db=20.0, **STFT)
    alone = []
    for i, length in enumerate(lengths.tolist()):
        frames = length // 16 + 1
        if length:
            inner = (x[i : i + 1, :, :length] for x in (speech, noise))
            alone.append(loss(embedding[i : i + 1, :, :frames], *inner, torch.tensor([length])))
        speech[i, :, length:] = float("nan")
        noise[i, :, length:] = float("nan")
        embedding[i, :, frames:] = float("nan")
    embedding.requires_grad_()
    batch = loss(embedding, speech, noise, lengths)
    torch.testing.assert_close(batch, torch.stack(alone).sum() / 4)  # the empty item adds nothing

    batch.backward()
    assert embedding.grad is not None
    assert torch.isfinite(embedding.grad).all()
    for i, length in enumerate(lengths.tolist()):
        assert torch.count_nonzero(embedding.grad[i, :, length // 16 + 1 :]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast(dtype: torch.dtype) -> None:
    embedding, speech, noise = embed(0).to(dtype), white(1), white(2)
    loss = DeepClusteringLoss(**STFT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(embedding, speech, noise, full(speech))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(embedding.float(), speech, noise, full(speech)))


def test_gradient_steps_separate_the_sources() -> None:
    speech, noise = white(1), white(2)
    embedding = embed(0).requires_grad_()
    optimizer = torch.optim.Adam([embedding], lr=0.1)
    loss = DeepClusteringLoss(active_db=400.0, **STFT)
    for _ in range(100):
        optimizer.zero_grad()
        loss(embedding, speech, noise, full(speech)).backward()
        optimizer.step()
    vectors = F.normalize(embedding.detach(), dim=-1).flatten(1, 2)[0]
    choice = ideal(speech, noise).flatten(1, 2)[0, :, 1] > 0
    centre = F.normalize(vectors[choice].mean(0), dim=0)
    assert ((vectors @ centre > 0.5) == choice).float().mean() > 0.99


def test_does_not_build_the_matrix_of_all_pairs_of_bins() -> None:
    bins = 257 * 626  # 5 s: 1.6e5 bins, whose square in float32 is 104 GB
    embedding = torch.zeros(1, 257, 626, 4)
    embedding[..., 0] = 1.0
    speech = 0.1 * torch.randn(1, 1, 80000, generator=torch.Generator().manual_seed(0))
    loss = DeepClusteringLoss(active_db=400.0, normalize=False)(
        embedding, speech, torch.zeros_like(speech), full(speech)
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-6 * bins**2)


def test_wrong_shapes_are_refused_with_the_settings_to_change() -> None:
    loss = DeepClusteringLoss(**STFT)
    with pytest.raises(ValueError, match=r"\(B, F, N, D\)"):
        loss(embed(0)[..., 0], white(1), white(2), torch.tensor([T]))
    with pytest.raises(ValueError, match=rf"\(1, 16, {FRAMES}\).*\(1, {BINS}, {FRAMES}\).*n_fft.*hop_length"):
        loss(embed(0)[:, 1:], white(1), white(2), torch.tensor([T]))
    with pytest.raises(ValueError, match="noise"):
        loss(embed(0), white(1), white(2)[..., 1:], torch.tensor([T]))
