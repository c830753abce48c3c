from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bcfusion import __version__
from bcfusion.errors import CheckpointError
from bcfusion.generators.seanet import SEANet
from bcfusion.probe import receptive_field
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.checkpoint import FORMAT, KIND, weights_of

TINY = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
CONFIG = {"_target_": "bcfusion.generators.seanet.SEANet", **TINY}
TRAINING = {
    "recipe": "bone_to_air",
    "experiment": "seanet",
    "overrides": ["seed=1"],
    "step": 7,
    "metrics": {"stoi": 0.9},
}


class Gain(nn.Module):
    """A network of a user's package: an amplifier with other modules nested in its configuration."""

    provides: tuple[str, ...] = ()

    def __init__(self, stages: list[nn.Module], activation: Any, table: dict[str, int]) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = 8000, 1, 1, True, 0
        self.stages = nn.Sequential(*stages)
        self.activation = activation()
        self.table = table

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(self.stages(inputs))


def seanet(seed: int = 0, **changes: Any) -> SEANet:
    torch.manual_seed(seed)
    return SEANet(**{**TINY, **changes})


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "bundle", seanet(), CONFIG, ["body"], TRAINING)


def test_a_bundle_has_discriminators_only_if_they_lie_beside_it(bundle: Path) -> None:
    assert weights_of(bundle)[1] is None
    save_file({"msd.layer.weight": torch.ones(2)}, bundle / "discriminators.safetensors")
    state, discriminators = weights_of(bundle)
    assert set(state) == set(load_file(bundle / "generator.safetensors"))
    assert discriminators is not None
    assert set(discriminators) == {"msd.layer.weight"}
    (bundle / "discriminators.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"discriminators\.safetensors is damaged"):
        weights_of(bundle)


def checkpoint_content(**changes: Any) -> dict[str, Any]:
    config = {"generator": CONFIG, "task": {"sensors": ["body"]}, "sample_rate": 16000}
    content = {
        "kind": KIND,
        "format": FORMAT,
        "config": config,
        "step": 7,
        "generator": seanet(0).state_dict(),
        "generator_ema": None,
        "training": TRAINING,
    }
    return {**content, **changes}


def edit(bundle: Path, **changes: Any) -> None:
    config = yaml.safe_load((bundle / "config.yaml").read_text())
    (bundle / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    text = str(caught.value)
    assert text.count("\n") <= 1
    assert str(path.name) in text
    return text


def test_loaded_network_computes_what_was_saved(bundle: Path) -> None:
    x = noise(1, 1, 1001)
    loaded = load_generator(bundle)
    assert not loaded.training
    torch.testing.assert_close(loaded(x), seanet().eval()(x), rtol=0, atol=1e-6)


def test_bundle_has_no_weight_norm_and_leaves_the_network_alone(tmp_path: Path) -> None:
    generator = seanet()
    generator.first.eval()
    before = copy.deepcopy(generator.state_dict())
    loaded = load_generator(save_bundle(tmp_path / "b", generator, CONFIG, ["body"], TRAINING))
    assert not any("parametrizations" in name for name in loaded.state_dict())
    assert generator.training
    assert not generator.first.training
    assert generator.state_dict().keys() == before.keys()
    assert all(torch.equal(generator.state_dict()[name], tensor) for name, tensor in before.items())


def test_config_holds_all_that_inference_needs(bundle: Path) -> None:
    text = (bundle / "config.yaml").read_text()
    assert text.startswith("# bcfusion enhance ")
    content = yaml.safe_load(text)
    network = seanet()
    assert content == {
        "format": 1,
        "bcfusion": __version__,
        "generator": CONFIG,
        "sample_rate": 16000,
        "sensors": ["body"],
        "hop": 8,
        "delay": network.delay,
        "causal": False,
        "receptive_field": list(receptive_field(network) or ()),
        "training": TRAINING,
    }
    assert sorted(os.listdir(bundle)) == ["config.yaml", "generator.safetensors"]
    description = bundle_of(load_generator(bundle))
    assert description is not None
    assert description.receptive_field == receptive_field(network)
    assert description.training["metrics"] == {"stoi": 0.9}


class Counting(SEANet):
    """A network with measured statistics, a counter and a shared parameter."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.scale = nn.Parameter(torch.tensor(1.0 + 2**-13))
        self.same = self.scale
        self.register_buffer("mean", torch.tensor(1.0 + 2**-13))
        self.register_buffer("count", torch.tensor(70001))


def test_float16_halves_the_parameters_and_leaves_buffers_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, config = Counting(**TINY), {"_target_": f"{__name__}.Counting", **TINY}
    bundle = save_bundle(tmp_path / "b", network, config, ["body"], TRAINING, dtype=torch.float16)
    stored = load_file(bundle / "generator.safetensors")
    parameters = {name for name, _ in load_generator(bundle).named_parameters(remove_duplicate=False)}
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.float16} == parameters
    assert yaml.safe_load((bundle / "config.yaml").read_text())["dtype"] == "float16"

    loaded, x = load_generator(bundle), noise(1, 1, 1001)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert loaded.scale is loaded.same
    assert (loaded.scale.item(), loaded.mean.item(), loaded.count.item()) == (1.0, 1.0 + 2**-13, 70001)
    wanted = network.eval()(x)
    error = (loaded(x) - wanted).square().sum() / wanted.square().sum()
    assert 1e-9 < error < 1e-4  # rounded, and little
    again = save_bundle(tmp_path / "again", loaded, config, ["body"], TRAINING)  # exact, and float32 by default
    assert torch.equal(load_generator(again)(x), loaded(x))
    assert "dtype" not in yaml.safe_load((again / "config.yaml").read_text())


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    network = Counting(**TINY)
    with torch.no_grad():
        network.scale.fill_(1e5)
    with pytest.raises(CheckpointError, match=r"scale holds values above 65504, the largest in float16: store float32"):
        save_bundle(tmp_path / "b", network, CONFIG, ["body"], TRAINING, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.float16, not torch\.int8"):
        save_bundle(tmp_path / "b", network, CONFIG, ["body"], TRAINING, dtype=torch.int8)
    assert not (tmp_path / "b").exists()


def test_values_of_numpy_and_torch_become_plain(tmp_path: Path) -> None:
    metrics = {"stoi": np.float64(0.5), "pesq": torch.tensor(2.0), "lsd": float("nan")}
    save_bundle(tmp_path / "b", seanet(), CONFIG, ["body"], {"metrics": metrics, "config_dir": Path("/x")})
    training = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())["training"]
    assert training["config_dir"] == "/x"
    assert training["metrics"]["stoi"] == 0.5
    assert training["metrics"]["pesq"] == 2.0
    assert np.isnan(training["metrics"]["lsd"])


@pytest.mark.slow
def test_loads_without_lightning_and_hydra(bundle: Path) -> None:
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "hydra", "omegaconf"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import bcfusion
print(bcfusion.load_generator({str(bundle)!r}).bundle.sensors)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['body']", done.stderr


def test_second_bundle_replaces_the_first(bundle: Path) -> None:
    x = noise(1, 1, 64)
    save_bundle(bundle, seanet(5), CONFIG, ["body"], {"step": 8})
    loaded = load_generator(bundle)
    torch.testing.assert_close(loaded(x), seanet(5)(x), rtol=0, atol=1e-6)
    assert os.listdir(bundle.parent) == ["bundle"]


def test_failed_write_keeps_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    with pytest.raises(TypeError, match="plain values only"):
        save_bundle(bundle, seanet(5), CONFIG, ["body"], {"step": object()})
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError("disk error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="disk error"):
        save_bundle(bundle, seanet(5), CONFIG, ["body"], {})
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    assert os.listdir(bundle.parent) == ["bundle"]


def test_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(CheckpointError, match="is not a bundle"):
        save_bundle(tmp_path / "thesis", seanet(), CONFIG, ["body"], {})
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "x"


def test_every_channel_has_a_sensor(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 sensors"):
        save_bundle(tmp_path / "b", seanet(), CONFIG, ["body", "noisy"], {})


def test_nested_targets_lists_partials_and_positional_arguments_are_built(tmp_path: Path) -> None:
    config = {
        "_target_": f"{__name__}.Gain",
        "stages": [{"_target_": "torch.nn.Conv1d", "_args_": [1, 1], "kernel_size": 1}],
        "activation": {"_target_": "torch.nn.LeakyReLU", "_partial_": True, "negative_slope": 0.5},
        "table": {"a": 1},
    }
    network = Gain([nn.Conv1d(1, 1, 1)], nn.Identity, {})
    loaded = load_generator(save_bundle(tmp_path / "b", network, config, ["body"], {}))
    assert isinstance(loaded, Gain)
    assert isinstance(loaded.activation, nn.LeakyReLU)
    assert loaded.activation.negative_slope == 0.5
    assert loaded.table == {"a": 1}


def test_of_a_run_its_bundle_is_loaded_else_its_best_checkpoint(bundle: Path) -> None:
    run, x = bundle.parent, noise(1, 1, 64)
    (run / "checkpoints").mkdir()
    torch.save(checkpoint_content(generator=seanet(3).state_dict()), run / "checkpoints" / "best.ckpt")
    torch.testing.assert_close(load_generator(run)(x), seanet(0)(x), rtol=0, atol=1e-6)
    bundle.rename(run / "moved")
    torch.testing.assert_close(load_generator(run)(x), seanet(3)(x), rtol=0, atol=1e-6)
    (run / "checkpoints" / "best.ckpt").rename(run / "checkpoints" / "last.ckpt")
    assert "without a bundle or a best.ckpt" in message(run)


def test_of_a_checkpoint_the_averaged_weights_are_loaded_if_it_has_any(tmp_path: Path) -> None:
    x = noise(1, 1, 64)
    torch.save(checkpoint_content(), tmp_path / "raw.ckpt")
    torch.save(checkpoint_content(generator_ema=seanet(9).state_dict()), tmp_path / "ema.ckpt")
    torch.testing.assert_close(load_generator(tmp_path / "raw.ckpt")(x), seanet(0)(x), rtol=0, atol=1e-6)
    averaged = load_generator(tmp_path / "ema.ckpt")
    torch.testing.assert_close(averaged(x), seanet(9)(x), rtol=0, atol=1e-6)
    description = bundle_of(averaged)
    assert description is not None
    assert description.sensors == ["body"]
    assert description.training["step"] == 7
    assert description.generator == CONFIG
    assert description.receptive_field == receptive_field(seanet())


def test_missing_model_names_the_nearest(bundle: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"did you mean {bundle}\?"):
        load_generator(bundle.parent / "bundel")


def test_files_that_are_not_checkpoints(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "random.ckpt").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "not a checkpoint" in message(tmp_path / "random.ckpt")
    soundfile.write(tmp_path / "speech.wav", np.zeros(100), 16000)
    assert "not a checkpoint" in message(tmp_path / "speech.wav")
    torch.save(seanet().state_dict(), tmp_path / "foreign.ckpt")
    assert "not a checkpoint of bcfusion" in message(tmp_path / "foreign.ckpt")
    torch.save(checkpoint_content(), tmp_path / "cut.ckpt")
    whole = (tmp_path / "cut.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in message(tmp_path / "cut.ckpt")
    assert "give its folder" in message(bundle / "generator.safetensors")
    (tmp_path / "empty").mkdir()
    assert "neither a bundle" in message(tmp_path / "empty")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"kind": KIND, "payload": Malicious(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    message(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_target_that_is_not_a_module_is_not_called(bundle: Path) -> None:
    marker = bundle.parent / "ran"
    edit(bundle, generator={"_target_": "pathlib.Path.touch", "self": str(marker)})
    with pytest.raises(CheckpointError):
        load_generator(bundle)
    edit(bundle, generator={"_target_": "subprocess.Popen", "args": ["touch", str(marker)]})
    with pytest.raises(CheckpointError, match=r"is not a torch\.nn\.Module"):
        load_generator(bundle)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"generator": {**CONFIG, "_target_": "absent_package.Net"}},
            "needs absent_package.Net, which is not a network of bcfusion",
        ),
        (
            {"generator": {**CONFIG, "_target_": "bcfusion.generators.seanet.Net"}},
            "needs bcfusion.generators.seanet.Net",
        ),
        ({"generator": {**CONFIG, "chanels": 3}}, "unexpected keyword argument 'chanels'"),
        ({"generator": {**CONFIG, "channels": 0}}, "cannot build bcfusion.generators.seanet.SEANet: "),
        ({"generator": {"channels": 3}}, "no _target_"),
        ({"generator": {**CONFIG, "channels": 3}}, "of another shape"),
        ({"generator": {**CONFIG, "strides": [2]}}, "unknown (such as "),
        ({"format": 2}, "update bcfusion"),
        ({"format": None}, "holds no format number"),
        ({"sensors": 3}, "of the wrong kind"),
        ({"dtype": "int4"}, "dtype must be float32 or float16, not 'int4'"),
    ],
)
def test_bundle_that_does_not_fit(bundle: Path, changes: dict[str, Any], says: str) -> None:
    edit(bundle, **changes)
    assert says in message(bundle)


def test_damaged_bundle(bundle: Path) -> None:
    config = yaml.safe_load((bundle / "config.yaml").read_text())
    (bundle / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in ("hop", "delay")}))
    assert "hop, delay missing" in message(bundle)
    (bundle / "config.yaml").write_text("a: [1\n  b: }")
    assert "not YAML" in message(bundle)
    (bundle / "config.yaml").write_text(yaml.safe_dump(config))
    whole = (bundle / "generator.safetensors").read_bytes()
    (bundle / "generator.safetensors").write_bytes(whole[:-10])
    assert "damaged" in message(bundle)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": {"generator": CONFIG}}, "config.task missing"),
        ({"format": FORMAT + 1}, "update bcfusion"),
        ({"generator": seanet(channels=3).state_dict()}, "of another shape"),
        ({"generator": {}}, "missing (such as "),
    ],
)
def test_checkpoint_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    torch.save(checkpoint_content(**changes), tmp_path / "best.ckpt")
    assert says in message(tmp_path / "best.ckpt")
