from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bcfusion.errors import ConfigError
from bcfusion.nn.conv import Conv1d, channels_last
from bcfusion.nn.padding import pad


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (3, 0), (0, 2), (1, 6), (6, 6)])
def test_padding_equals_torchs_and_keeps_the_layout(left: int, right: int, layout: object) -> None:
    assert callable(layout)
    x = layout(torch.randn(2, 3, 7))
    torch.testing.assert_close(pad(x, left, right), F.pad(x, (left, right)), rtol=0, atol=0)
    mirrored = pad(x, left, right, "reflect")
    torch.testing.assert_close(mirrored, F.pad(x, (left, right), mode="reflect"), rtol=0, atol=0)
    assert (mirrored.stride(1) == 1) == (x.stride(1) == 1)


def test_a_mirror_longer_than_the_signal_continues_with_zeros() -> None:
    x = torch.arange(1.0, 4.0).view(1, 1, 3)
    assert pad(x, 4, 3, "reflect").flatten().tolist() == [0, 0, 3, 2, 1, 2, 3, 2, 1, 0]
    assert pad(x[..., :1], 1, 1, "reflect").flatten().tolist() == [0, 1, 0]


def test_a_convolution_takes_its_context_from_where_it_is_told() -> None:
    layer = Conv1d(1, 1, 8, stride=4, bias=False, left=3)
    x = torch.randn(1, 1, 12)
    torch.testing.assert_close(layer(x), F.conv1d(x, layer.weight, stride=4, padding=3))
    assert [layer.last_input(frame) for frame in range(3)] == [4, 8, 12]
    with pytest.raises(ConfigError, match="left=5 must lie between 0 and the context, 4"):
        Conv1d(1, 1, 8, stride=4, left=5)
