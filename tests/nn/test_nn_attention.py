from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.nn import attention
from bcfusion.nn.attention import Alibi, SelfAttention


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def layers(reach: int | None, causal: bool, channels: int = 8, heads: int = 2) -> tuple[Alibi, SelfAttention]:
    return Alibi(heads, reach, causal).double().eval(), SelfAttention(channels, heads, reach, causal).double().eval()


def by_definition(alibi: Alibi, layer: SelfAttention, x: Tensor) -> Tensor:
    """The sums of Vaswani et al. and Press et al., one query and head after the other."""
    query, key, value = (part.unflatten(-1, (layer.heads, -1)) for part in layer.inward(x).chunk(3, dim=-1))
    frames = x.shape[1]
    output = torch.zeros_like(query)
    for i in range(frames):
        reach = frames if alibi.reach is None else alibi.reach
        seen = [j for j in range(frames) if abs(i - j) <= reach and (j <= i or not alibi.causal)]
        for head in range(layer.heads):
            slope = 2 ** (-8 * (head + 1) / layer.heads)
            scores = torch.stack(
                [
                    (query[:, i, head] * key[:, j, head]).sum(-1) / query.shape[-1] ** 0.5 - slope * abs(i - j)
                    for j in seen
                ],
                dim=-1,
            )
            output[:, i, head] = (scores.softmax(-1)[..., None] * value[:, seen, head]).sum(1)
    return layer.outward(output.flatten(2))


def test_eight_heads_have_the_slopes_of_the_paper() -> None:
    assert Alibi(8, None, False).slopes.tolist() == pytest.approx([1 / 2**n for n in range(1, 9)])
    assert Alibi(16, None, False).slopes[:2].tolist() == pytest.approx([2**-0.5, 0.5])


@pytest.mark.parametrize(("reach", "causal"), [(None, False), (3, False), (3, True)])
@pytest.mark.parametrize("rows", [None, 4])
def test_it_is_attention_with_linear_biases(
    reach: int | None, causal: bool, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is not None:  # a part of the queries at a time
        monkeypatch.setattr(attention, "_ROWS", rows)
        monkeypatch.setattr(attention, "_SCORES", 2 * 17 * rows)
    alibi, layer = layers(reach, causal)
    x = torch.randn(2, 17, 8, dtype=torch.float64)
    with torch.no_grad():
        biases = alibi(x)
        assert len(list(biases)) == (1 if rows is None else 5)
        torch.testing.assert_close(layer(x, biases), by_definition(alibi, layer, x), atol=1e-12, rtol=1e-10)


def test_a_file_backwards_gives_the_output_backwards() -> None:
    alibi, layer = layers(None, causal=False)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    with torch.no_grad():
        forward, backward = layer(x, alibi(x)), layer(x.flip(1), alibi(x))
    torch.testing.assert_close(backward.flip(1), forward)


@pytest.mark.parametrize("causal", [False, True])
def test_later_frames_give_the_same_output_later(causal: bool) -> None:
    alibi, layer = layers(3, causal)
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    later = torch.cat([torch.randn(1, 5, 8, dtype=torch.float64), x], dim=1)
    with torch.no_grad():
        before, after = layer(x, alibi(x)), layer(later, alibi(later))[:, 5:]
    torch.testing.assert_close(after[:, 3:], before[:, 3:])  # the first ones see what was put before them
    assert not torch.allclose(after[:, 0], before[:, 0])


def test_the_nearer_of_equal_frames_counts_more_by_the_slope() -> None:
    alibi, layer = layers(None, causal=False, channels=2, heads=1)
    with torch.no_grad():
        layer.inward.weight.zero_()
        layer.inward.weight[4:] = torch.eye(2)  # all scores are equal, values are the frames
        layer.inward.bias.zero_()
        layer.outward.weight.copy_(torch.eye(2))
        layer.outward.bias.zero_()
        x = torch.zeros(1, 3, 2, dtype=torch.float64)
        x[0, 2, 0] = 1.0
        alibi.slopes.fill_(0.7)
        weights = layer(x, alibi(x))[0, :, 0]  # that each query gives to the last frame
    assert float(weights[0] / weights[1]) == pytest.approx(
        torch.tensor([-1.4, -0.7, 0.0]).softmax(0)[0].item() / torch.tensor([-0.7, 0.0, -0.7]).softmax(0)[2].item()
    )


@pytest.mark.parametrize("chunks", [[1] * 23, [7, 1, 15], [23]])
def test_a_stream_equals_the_file_from_its_first_frame_on(chunks: list[int]) -> None:
    alibi, layer = layers(4, causal=True)
    x = torch.randn(2, 23, 8, dtype=torch.float64)
    with torch.no_grad():
        whole = layer(x, alibi(x))
        with alibi.streaming(2), layer.streaming(2):
            sizes = {name: tensor.shape for name, tensor in layer.get_state().items()}
            parts = [layer(part, alibi(part)) for part in x.split(chunks, dim=1)]
            assert {name: tensor.shape for name, tensor in layer.get_state().items()} == sizes
            assert sizes == {"past": (2, 4, 16)}
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(("causal", "spoiled"), [(True, range(10, 14)), (False, range(7, 14))])
def test_what_is_not_finite_spoils_the_frames_that_see_it_and_no_others(causal: bool, spoiled: range) -> None:
    alibi, layer = layers(3, causal)
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    broken = x.clone()
    broken[0, 10, 2] = torch.inf
    with torch.no_grad():
        sound, output = layer(x, alibi(x)), layer(broken, alibi(broken))
    others = [frame for frame in range(20) if frame not in spoiled]
    assert not output[:, spoiled].isfinite().any()
    assert torch.equal(output[:, others], sound[:, others])


def test_a_broken_frame_leaves_a_stream_as_it_leaves_the_file() -> None:
    alibi, layer = layers(3, causal=True)
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    x[0, 5] = torch.nan
    with torch.no_grad():
        whole = layer(x, alibi(x)).isfinite()
        for size in (1, 4):
            with alibi.streaming(1), layer.streaming(1):
                parts = [layer(part, alibi(part)).isfinite() for part in x.split(size, dim=1)]
            assert torch.equal(torch.cat(parts, dim=1), whole)


def test_gradients_do_not_depend_on_how_many_queries_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alibi, layer = layers(None, causal=False)
    x = torch.randn(1, 17, 8, dtype=torch.float64)
    found = []
    for scores in (attention._SCORES, 2 * 17 * 4):
        monkeypatch.setattr(attention, "_SCORES", scores)
        layer.zero_grad()
        alibi.zero_grad()
        layer(x, alibi(x)).square().sum().backward()
        assert alibi.slopes.grad is not None
        assert alibi.slopes.grad.any()
        assert layer.inward.weight.grad is not None
        found.append((alibi.slopes.grad.clone(), layer.inward.weight.grad.clone()))
    for once, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, once)


def test_impossible_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels=9 must be a multiple of heads=2"):
        SelfAttention(9, 2, None, False)
    for build in (lambda: Alibi(2, None, True), lambda: SelfAttention(8, 2, None, True)):
        with pytest.raises(ConfigError, match="causal=True needs a reach"):
            build()
    with pytest.raises(ConfigError, match="reach=0 must be at least 1"):
        Alibi(2, 0, False)
