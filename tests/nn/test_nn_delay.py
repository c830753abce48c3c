from __future__ import annotations

import pytest
import torch

from bcfusion.errors import ConfigError
from bcfusion.nn.delay import Delay


@pytest.mark.parametrize("samples", [0, 1, 5, 30])
@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_a_delay_holds_samples_back_in_files_and_in_streams(samples: int, chunk: int) -> None:
    layer, x = Delay(samples, (2, 3)), torch.randn(4, 2, 3, 20)
    whole = layer(x)
    assert torch.equal(whole, torch.cat([torch.zeros(4, 2, 3, samples), x], dim=-1)[..., :20])
    with layer.streaming(4):
        assert torch.equal(torch.cat([layer(part) for part in x.split(chunk, dim=-1)], dim=-1), whole)


def test_a_negative_delay_is_refused() -> None:
    with pytest.raises(ConfigError, match="samples=-1"):
        Delay(-1)
