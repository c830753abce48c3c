"""Checkpoints are written whole, and weights fit whether or not weight norm is folded into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bcfusion.errors import CheckpointError
from bcfusion.generators.seanet import SEANet
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.run import checkpoint


def network(seed: int, folded: bool) -> SEANet:
    torch.manual_seed(seed)
    made = SEANet(channels=2, strides=(2, 4), dilations=(1,), bottleneck_channels=4).eval()
    if folded:
        remove_weight_norm(made)
    return made


def output(made: SEANet) -> Tensor:
    with torch.inference_mode():
        return made(0.1 * torch.sin(torch.arange(400.0) ** 2 / 500)[None, None])


@pytest.mark.parametrize("into_folded", [False, True])
@pytest.mark.parametrize("from_folded", [False, True])
def test_weights_fit_with_weight_norm_and_without(from_folded: bool, into_folded: bool) -> None:
    source, target = network(0, from_folded), network(1, into_folded)
    kept = [name for name, _ in target.named_parameters()]
    checkpoint.load_weights(target, source.state_dict(), Path("x"))
    torch.testing.assert_close(output(target), output(source), rtol=0, atol=0 if from_folded == into_folded else 1e-6)
    assert [name for name, _ in target.named_parameters()] == kept


def test_weights_of_another_network_are_described_and_change_nothing() -> None:
    target = network(1, folded=False)
    before = output(target)
    state = network(0, folded=True).state_dict()
    state["first.weight"] = state["first.weight"][:1]
    state["second.weight"] = state.pop("last.weight")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_weights(target, state, Path("other.ckpt"))
    assert str(caught.value) == (
        "other.ckpt does not fit SEANet: tensors 2 missing (such as last.parametrizations.weight.original0); "
        "1 unknown (such as second.weight); 2 of another shape "
        "(such as first.parametrizations.weight.original0: (1, 1, 1), the network has (2, 1, 1))"
    )
    torch.testing.assert_close(output(target), before, rtol=0, atol=0)


def test_a_failed_write_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.write(path, {"step": 1})
    with pytest.raises(AttributeError, match="pickle"):
        checkpoint.write(path, {"step": lambda: 2})
    assert checkpoint.read(path)["step"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_is_missing_names_the_nearest(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "best.ckpt", {})
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*bset\.ckpt; did you mean .*best\.ckpt\?"):
        checkpoint.read(tmp_path / "bset.ckpt")


def test_the_same_content_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoint.write(tmp_path / f"{name}.ckpt", {"generator": network(0, folded=False).state_dict()})
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
