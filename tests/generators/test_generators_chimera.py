"""Chimera's two heads, and the mask from clusters of the embeddings."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.generators.chimera import Chimera
from bcfusion.losses.embedding import DeepClusteringLoss

STFT: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "win_length": 64, "window": "sqrt_hann"}
SIZES: dict[str, Any] = {**STFT, "hidden_size": 12, "num_layers": 1, "embedding_size": 6}
BINS = 33

needs_clustering = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="scikit-learn is not installed: pip install 'bcfusion[clustering]'",
)


def build(**changes: Any) -> Chimera:
    torch.manual_seed(0)
    return Chimera(**{**SIZES, **changes}).eval()


def white(seed: int, *shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def band(seed: int, low: int, high: int, samples: int = 1600) -> Tensor:
    """Noise between two of 800 frequencies, ``(1, 1, samples)``."""
    spectrum = torch.fft.rfft(white(seed, 1, 1, samples))
    inside = (torch.arange(spectrum.shape[-1]) >= low) & (torch.arange(spectrum.shape[-1]) < high)
    return torch.fft.irfft(spectrum * inside, samples)


def two_sources(speech: Tensor, size: int = 6) -> tuple[Tensor, Tensor]:
    """Embeddings ``(B, F, N, D)`` about two orthogonal vectors, and a mask head that is right in 7 of 10 bins."""
    centres = torch.eye(size)[:2]
    vectors = centres[speech.long()] + white(3, *speech.shape, size)
    sure = torch.rand(speech.shape, generator=torch.Generator().manual_seed(4)) < 0.7
    mask = torch.where(speech == sure, 0.7, 0.3)
    return vectors / vectors.norm(dim=-1, keepdim=True), mask


def test_parameters_at_the_shipped_and_at_the_published_width() -> None:
    with torch.device("meta"):
        counts = {width: sum(p.numel() for p in Chimera(hidden_size=width).parameters()) for width in (300, 600)}
    for width, count in counts.items():
        first, later = 2 * 4 * width * (257 + width + 2), 2 * 4 * width * (2 * width + width + 2)
        assert count == 2 * 257 + first + 3 * later + (2 * width + 1) * 257 * (20 + 1)  # norm, trunk, both heads
    assert counts == {300: 11_080_111, 600: 36_554_311}


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_every_bin_has_an_embedding_of_unit_norm_and_a_mask_that_only_attenuates(activation: Any) -> None:
    with torch.no_grad():
        output = build(embedding_activation=activation, in_channels=2)(white(1, 3, 2, 500))
    assert output["embedding"].shape == (3, BINS, 500 // 16 + 1, 6)
    torch.testing.assert_close(output["embedding"].norm(dim=-1), torch.ones(3, BINS, 32))
    assert bool((output["embedding"] < 0).any()) == (activation == "tanh")
    assert 0 <= output["mask"].min() < output["mask"].max() <= 1


@pytest.mark.parametrize(("largest", "start"), [(1.0, 0.5), (2.0, 1.0)])
def test_without_an_opinion_the_mask_is_half_of_its_bound(largest: float, start: float) -> None:
    model = build(in_channels=2, max_mask=largest)
    torch.nn.init.zeros_(model.mask.weight)
    torch.nn.init.zeros_(model.mask.bias)
    inputs = white(1, 2, 2, 700)
    with torch.no_grad():
        output = model(inputs)
    torch.testing.assert_close(output["estimate"], start * inputs[:, -1:], atol=1e-6, rtol=0)


def test_the_mask_does_not_depend_on_the_level() -> None:
    model = build()
    inputs = white(1, 1, 1, 800)
    with torch.no_grad():
        loud, quiet = model(inputs), model(0.01 * inputs)
    torch.testing.assert_close(quiet["mask"], loud["mask"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(quiet["estimate"], 0.01 * loud["estimate"], atol=1e-7, rtol=1e-3)


def test_deep_clustering_reaches_trunk_and_embedding_and_falls_within_a_few_steps() -> None:
    speech, noise = band(1, 0, 300), band(2, 300, 800)
    model = build().train()
    loss = DeepClusteringLoss(unit_norm=False, **STFT)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        value = loss(model(speech + noise)["embedding"], speech, noise, torch.tensor([1600]))
        value.backward()
        assert model.mask.weight.grad is None
        assert all(p.grad is not None and p.grad.any() for p in model.recurrent.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


@needs_clustering
def test_embeddings_of_two_sources_are_told_apart_exactly() -> None:
    """The mask head is wrong in 3 of 10 bins; its majority says which cluster is speech."""
    speech = torch.rand(2, BINS, 50, generator=torch.Generator().manual_seed(1)) < 0.4
    embedding, mask = two_sources(speech)
    level = torch.ones(speech.shape)
    model = build(inference="k_means")
    assert torch.equal(model.clustered(embedding, mask, level), speech.float())
    assert torch.equal(model.clustered(embedding, 1 - mask, level), 1 - speech.float())
    assert torch.equal(model.clustered(embedding[1:], mask[1:], level[1:]), speech[1:].float())
    thinned = build(inference="k_means", max_points=100)
    assert torch.equal(thinned.clustered(embedding, mask, level), speech.float())


@needs_clustering
def test_bins_below_the_active_range_keep_the_mask_head() -> None:
    speech = torch.rand(1, BINS, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    embedding, mask = two_sources(speech)
    level = torch.full(speech.shape, 10.0)
    level[:, :10] = 10.0 * 10 ** (-41 / 20)
    level[:, 10:20] = 10.0 * 10 ** (-39 / 20)
    result = build(inference="k_means").clustered(embedding, mask, level)
    assert torch.equal(result[:, :10], mask[:, :10])
    assert torch.equal(result[:, 10:], speech[:, 10:].float())


@needs_clustering
@pytest.mark.parametrize("what", ["silence", "one embedding", "not finite"])
def test_an_item_without_two_clusters_keeps_the_mask_head(what: str) -> None:
    speech = torch.rand(1, BINS, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    embedding, mask = two_sources(speech)
    level = torch.zeros(speech.shape) if what == "silence" else torch.ones(speech.shape)
    if what == "one embedding":
        embedding = embedding[:, :1, :1].expand_as(embedding)
    if what == "not finite":
        embedding = embedding.clone()
        embedding[0, 3, 4] = torch.nan
    assert torch.equal(build(inference="k_means").clustered(embedding, mask, level), mask)


@needs_clustering
def test_k_means_gives_the_same_mask_for_the_same_input_whatever_the_state_of_random_numbers() -> None:
    model = build(inference="k_means")
    inputs = white(1, 2, 1, 3000)
    masks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        masks.append(model(inputs)["mask"])
    assert torch.equal(masks[0], masks[1])
    assert set(masks[0].unique().tolist()) > {0.0, 1.0}  # and the values of inactive bins


@needs_clustering
def test_k_means_is_for_evaluation_only() -> None:
    clustered, head = build(inference="k_means"), build()
    inputs = white(1, 2, 1, 1000)
    assert not torch.equal(clustered(inputs)["mask"], head(inputs)["mask"])
    assert torch.equal(clustered.train()(inputs)["mask"], head.train()(inputs)["mask"])
    clustered(inputs)["mask"].sum().backward()
    assert clustered.mask.weight.grad is not None


@needs_clustering
def test_trained_embeddings_separate_two_bands() -> None:
    """Deep clustering and a mask head that has seen a little: the clusters are the two bands."""
    speech, noise = band(1, 0, 380), band(2, 420, 800)
    model = build(inference="k_means").train()
    loss = DeepClusteringLoss(unit_norm=False, **STFT)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        output = model(speech + noise)
        low = output["mask"][:, :15].mean() - output["mask"][:, 18:].mean()
        (loss(output["embedding"], speech, noise, torch.tensor([1600])) - low).backward()
        optimizer.step()
    with torch.no_grad():
        estimate = model.eval()(speech + noise)["estimate"]
    error = (estimate - speech).square().mean() / speech.square().mean()
    assert error < 0.05


def test_without_scikit_learn_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ConfigError, match=r"pip install 'bcfusion\[clustering\]'"):
        build(inference="k_means")
    build(inference="mask")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"causal": True}, "causal=True is impossible"),
        ({"embedding_size": 1}, "embedding_size=1"),
        ({"embedding_activation": "relu"}, "embedding_activation='relu'"),
        ({"inference": "clusters"}, "inference='clusters'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"floor": 0.0}, "floor=0.0"),
        ({"active_db": 0.0}, "active_db=0.0"),
        ({"max_mask": 0.0}, "max_mask=0.0"),
        ({"max_points": 1}, "max_points=1"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        build(**changes)
