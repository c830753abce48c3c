"""Weights of networks that have computed something else with the same tensors are refused, whatever file holds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcfusion import load_generator
from bcfusion.discriminators.multi_stft import MultiStftDiscriminator
from bcfusion.errors import CheckpointError
from bcfusion.generators.dccrn import DCCRN
from bcfusion.generators.eben import EBEN
from bcfusion.generators.hifigan import HifiGan
from bcfusion.generators.late_fusion import LateFusion
from bcfusion.generators.resunet_mask import ResUNetMask
from bcfusion.generators.seanet import SEANet
from bcfusion.generators.voicefixer import VoiceFixer, VoiceFixerMel
from bcfusion.nn.revision import Revised
from bcfusion.run import checkpoint
from bcfusion.run.bundle import save_bundle
from bcfusion.training.initial_state import restore_networks

OLD_RUN = Path(__file__).parent / "old_run"
TINY = {"channels": 2, "latent_channels": 2, "strides": [2], "dilations": [1]}
CONFIG = {"_target_": "bcfusion.generators.eben.EBEN", **TINY}
MEL: dict[str, Any] = {"n_fft": 256, "win_length": 256, "n_mels": 20}
SMALL_MEL: dict[str, Any] = {**MEL, "hop_length": 64, "channels": [2], "blocks": 1}
VOCODER: dict[str, Any] = {**MEL, "channels": 4, "rates": [8, 8], "kernel_sizes": [16, 16], "sensor": -1}
DCCRN_SIZES: dict[str, Any] = {"channels": (2, 2), "n_fft": 64, "win_length": 64, "hop_length": 16, "lstm_units": 2}

REVISED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "eben": (lambda: EBEN(**TINY), ["EBEN"]),
    "late_fusion of eben": (lambda: LateFusion(partial(EBEN, causal=True, **TINY)), ["EBEN"]),
    "hifigan": (lambda: HifiGan(**VOCODER), ["Vocoder"]),
    "voicefixer_mel": (lambda: VoiceFixerMel(**SMALL_MEL), ["ResUNet"]),
    "voicefixer": (lambda: VoiceFixer(VoiceFixerMel(**SMALL_MEL), HifiGan(**VOCODER)), ["ResUNet", "Vocoder"]),
    "resunet_mask": (lambda: ResUNetMask(channels=(2,), blocks=1), ["ResUNet"]),
    "dccrn_cl": (lambda: DCCRN(complex_lstm=True, **DCCRN_SIZES), ["ComplexBottleneck"]),
    "multi_stft": (lambda: MultiStftDiscriminator([64], [16], channels=2), ["StftDiscriminator"]),
}


def earlier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as it was stored before there were revisions."""
    return {name: tensor for name, tensor in state.items() if "_extra_state" not in name}


@pytest.mark.parametrize("name", REVISED)
def test_weights_without_a_revision_are_those_of_the_first_one(name: str) -> None:
    build, kinds = REVISED[name]
    network = build()
    state = network.state_dict()
    checkpoint.load_weights(network, state, Path("x"))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_weights(network, earlier(state), Path("old.ckpt"))
    for kind in kinds:
        assert f"they are those of an earlier {kind} (revision 1; here 2)" in str(caught.value)
    assert "train it again" in str(caught.value)


@pytest.mark.parametrize("network", [SEANet(channels=2, strides=(2,), bottleneck_channels=2), DCCRN(**DCCRN_SIZES)])
def test_networks_that_compute_what_they_did_load_what_they_did(network: nn.Module) -> None:
    assert not any(isinstance(part, Revised) for part in network.modules())
    assert earlier(network.state_dict()).keys() == network.state_dict().keys()


def test_a_later_revision_is_refused_too() -> None:
    network = EBEN(**TINY)
    with pytest.raises(CheckpointError, match=r"of a later EBEN \(revision 3; here 2\)"):
        checkpoint.load_weights(network, {**network.state_dict(), "_extra_state": torch.tensor(3)}, Path("x"))


@pytest.fixture
def run_of_eben(tmp_path: Path) -> Path:
    """A finished run of EBEN as an earlier version wrote it: the run of the fixture, with another network."""
    run = tmp_path / "run"
    shutil.copytree(OLD_RUN, run)
    network = EBEN(**TINY)
    shutil.rmtree(run / "bundle")
    save_bundle(run / "bundle", network, CONFIG, ["body"], {})
    weights = run / "bundle" / "generator.safetensors"
    save_file(earlier(load_file(weights)), weights)
    for name in ("best.ckpt", "last.ckpt"):
        content = checkpoint.read(run / "checkpoints" / name)
        content["config"]["generator"] = CONFIG
        checkpoint.write(run / "checkpoints" / name, {**content, "generator": earlier(network.state_dict())})
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "generator": CONFIG}))
    return run


@pytest.mark.parametrize("part", ["", "bundle", "checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_every_way_into_an_earlier_run_is_refused(part: str, run_of_eben: Path) -> None:
    with pytest.raises(CheckpointError, match="an earlier EBEN"):  # enhance, evaluate
        load_generator(run_of_eben / part)
    state, _ = checkpoint.weights_of(run_of_eben / part)  # init_from
    with pytest.raises(CheckpointError, match="an earlier EBEN"):
        checkpoint.load_weights(EBEN(**TINY), state, run_of_eben / part)


def test_an_earlier_run_is_not_resumed(run_of_eben: Path) -> None:
    last = run_of_eben / "checkpoints" / "last.ckpt"
    module = SimpleNamespace(generator=EBEN(**TINY), ema=None, adversary=None)
    with pytest.raises(CheckpointError, match="an earlier EBEN"):
        restore_networks(module, checkpoint.read(last), last)  # type: ignore[arg-type]
