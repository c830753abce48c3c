"""A bundle of a stranger runs no code, whatever its files say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_hub import FakeHub, Half
from omegaconf import OmegaConf

from bcfusion import __version__, cli
from bcfusion.adaptation.learning import losses_of
from bcfusion.commands.shared.recorded import recorded_for_evaluation
from bcfusion.configuration.paths import conf_dir
from bcfusion.errors import CheckpointError
from bcfusion.generators.seanet import SEANet
from bcfusion.hub.pull import pull
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import Bundle, bundle_of, load_generator, save_bundle
from bcfusion.run.card import read_card
from bcfusion.run.checkpoint import FORMAT, KIND, weights_of
from bcfusion.run.models import resolve_model
from bcfusion.run.trust import PARTS, foreign_class, require_own
from bcfusion.training.initial_state import initial_model

SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
SEANET = {"_target_": "bcfusion.generators.seanet.SEANet", **SIZES}
NAME = "hf:me/model"


def publish(hub: FakeHub, place: Path, change: dict[str, Any], files: dict[str, bytes] | None = None) -> None:
    """Put a bundle of SEANet on the hub, with other entries in its config.yaml."""
    folder = save_bundle(place / "bundle", SEANet(**SIZES), SEANET, ["body"], {"recipe": "bone_to_air"})
    content = yaml.safe_load((folder / "config.yaml").read_text()) | change
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    hub.add("me/model", {file.name: file.read_bytes() for file in folder.iterdir()} | (files or {}))


def refusal(**given: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        load_generator(NAME, **given)
    return str(error.value)


def test_a_network_of_bcfusion_is_loaded(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, tmp_path, {})
    x = torch.randn(1, 1, 800)
    torch.testing.assert_close(load_generator(NAME)(x), load_generator(tmp_path / "bundle")(x))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.Identity",
        "bcfusion.generators.seanet.Tensor",  # an alias leads out of the package
        "bcfusion.generators.seanet.above",
        "bcfusion.training.module.SpeechModule",
        "bcfusion.commands.push.main",
        "bcfusion.generators",
        "bcfusion.generatorsevil.Net",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_other_targets_are_refused_and_named(hub: FakeHub, tmp_path: Path, target: Any, nested: bool) -> None:
    node = {"_target_": target, "command": f"touch {tmp_path}/ran"}
    publish(hub, tmp_path, {"generator": {**SEANET, "channels": [{"deep": node}]} if nested else node})
    text = refusal()
    assert text.startswith(f"hf:me/model needs {target}, which is not a network of bcfusion\n")
    assert "trust_code=True (--trust-code)" in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target",
    [
        "bcfusion.generators.seanet.nn.Identity",
        "bcfusion.generators.seanet.torch._functorch.make_functional.FunctionalModule",  # is imported on the way
        "bcfusion.generators.seanet.torch.not_there.Net",
        "bcfusion.generators.seanet.SEANet.forward",
        "bcfusion.generators.of_later.Net",
        "bcfusion.generators.seanet.SEANet9",
    ],
)
def test_what_is_no_class_of_a_module_of_bcfusion_is_not_looked_up(hub: FakeHub, tmp_path: Path, target: str) -> None:
    publish(hub, tmp_path, {"generator": {"_target_": target}})
    assert refusal() == f"hf:me/model needs {target}, which bcfusion {__version__} does not have"


@pytest.mark.parametrize(
    "target", [["os.system"], None, "a.b\nbcfusion: checked and safe", "os", "a..b", "a" * 101 + ".b"]
)
def test_a_target_that_is_no_name_is_not_shown(hub: FakeHub, tmp_path: Path, target: Any) -> None:
    publish(hub, tmp_path, {"generator": {"_target_": target}})
    assert refusal() == "hf:me/model is damaged: a _target_ in its config.yaml is not the name of a class"


@pytest.mark.parametrize("group", ["generator", "discriminators", "losses"])
def test_every_network_and_loss_of_bcfusion_is_its_own(group: str) -> None:
    targets = {
        found[1]
        for file in (conf_dir() / group).glob("*.yaml")
        for found in re.finditer(r"_target_: (\S+)", file.read_text(encoding="utf-8"))
    }
    assert targets
    for target in targets:
        require_own(target, PARTS, "a model")


def test_arguments_without_names_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, tmp_path, {"generator": {**SEANET, "_args_": ["mel", "vocoder", "hf:evil/other"]}})
    assert "holds _args_: arguments without names" in refusal()


@pytest.mark.parametrize("way", ["typed", "link", "relative", "own name", "checkpoint", "inside"])
def test_a_path_into_the_cache_is_a_model_of_the_hub(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (tmp_path / "planted_module.py").write_text(f"open(r'{tmp_path}/ran', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    publish(hub, tmp_path, {"generator": {"_target_": "planted_module.Net"}}, {"best.ckpt": b"pickle"})
    (tmp_path / "models").mkdir()
    import huggingface_hub

    folder = Path(huggingface_hub.snapshot_download("me/model"))
    given = str(folder)
    if way == "relative":
        monkeypatch.chdir(folder.parent)
        given = f"./{folder.name}"
    elif way == "link":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "bundle").symlink_to(folder)
        given = str(tmp_path / "run")
    elif way == "own name":
        (tmp_path / "models" / "mine").symlink_to(folder)
        monkeypatch.setenv("BCFUSION_MODELS", str(tmp_path / "models"))
        given = "mine"
    elif way == "checkpoint":
        given = str(folder / "best.ckpt")
    elif way == "inside":
        monkeypatch.chdir(folder)
        given = "."
    with pytest.raises(CheckpointError) as error:
        load_generator(given)
    says = "from where only bundles are loaded" if way == "checkpoint" else "hf:me/model needs planted_module.Net"
    assert says in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_overrides_of_a_linked_bundle_of_the_hub_are_those_of_a_stranger(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, tmp_path, {"training": {"overrides": ["recipe=fusion", "+metrics.evil={_target_:os.system}"]}})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bundle").symlink_to(resolve_model(NAME).path)
    (tmp_path / "mine").symlink_to(resolve_model(NAME).path)
    for given in ("run", "mine"):
        used = recorded_for_evaluation(tmp_path / given)
        assert [each for each in used if not each.startswith("machine=")] == ["recipe=fusion"]


def test_a_module_of_the_user_is_not_even_imported(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_module.py").write_text(f"open(r'{tmp_path}/ran', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    publish(hub, tmp_path, {"generator": {"_target_": "planted_module.Net"}})
    assert "needs planted_module.Net" in refusal()
    assert "planted_module" not in sys.modules
    assert not (tmp_path / "ran").exists()
    assert "there is no" in refusal(trust_code=True) or "has no 'Net'" in refusal(trust_code=True)
    assert (tmp_path / "ran").exists()  # that is what the consent means
    monkeypatch.delitem(sys.modules, "planted_module")


def test_a_class_of_others_is_found_however_deep() -> None:
    assert foreign_class(SEANET) == ""
    assert foreign_class({**SEANET, "parts": [{"inner": {"_target_": "fake_hub.Half"}}]}) == "fake_hub.Half"
    assert foreign_class({"_target_": "bcfusion.training.module.SpeechModule"}) != ""


def test_with_consent_the_class_on_this_machine_is_used(hub: FakeHub, tmp_path: Path) -> None:
    folder = save_bundle(tmp_path / "own", Half(), {"_target_": "fake_hub.Half"}, ["body"], {})
    hub.add("me/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    assert "needs fake_hub.Half" in refusal()
    assert load_generator(NAME, trust_code=True)(torch.ones(1, 1, 4)).tolist() == [[[0.5] * 4]]
    assert load_generator(folder)(torch.ones(1, 1, 1)).item() == 0.5  # on the disk: this program has imported the class


# ---------------------------------------------------------------- models on the disk

NET = """
import pathlib, sys, torch
pathlib.Path(r"{marker}").touch()
class Net(torch.nn.Module):
    in_channels, sample_rate, hop, delay, causal = 1, 16000, 1, 0, True
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))
    def forward(self, x):
        return self.gain * x[:, :1]
class Loss(torch.nn.Module):
    def forward(self, estimate, target, lengths):
        return (estimate - target).abs().mean()
Alias = torch.jit.ScriptModule
"""


@pytest.fixture(params=["bundle", "checkpoint"])
def planted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model of a class that nobody has imported; where it is imported, the file ``ran`` appears."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").touch()
    (tmp_path / "planted" / "nets.py").write_text(NET.format(marker=tmp_path / "ran"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BCFUSION_TRUST", raising=False)
    node = {"_target_": "planted.nets.Net"}
    folder = save_bundle(
        tmp_path / "own", Half(), node, ["body"], {"losses": {"own": {"_target_": "planted.nets.Loss"}}}
    )
    if request.param == "checkpoint":
        config = {"generator": node, "task": {"sensors": ["body"]}}
        folder = tmp_path / "own.ckpt"
        torch.save({"kind": KIND, "format": FORMAT, "config": config, "generator": Half().state_dict()}, folder)
    yield folder
    for name in ("planted", "planted.nets"):
        sys.modules.pop(name, None)


def output_of(model: Path, **given: Any) -> float:
    return load_generator(model, **given)(torch.ones(1, 1, 1)).item()


def test_a_model_on_the_disk_imports_nothing_that_the_user_does_not_trust(planted: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_generator(planted)
    assert f"{planted} needs planted.nets.Net, which is not a network of bcfusion\nif it is your own" in str(
        error.value
    )
    assert "BCFUSION_TRUST=planted" in str(error.value)
    assert "planted" not in sys.modules
    assert not (planted.parent / "ran").exists()


@pytest.mark.parametrize("named", ["planted", "other, planted", "planted.nets"])
def test_a_package_in_the_environment_is_trusted(planted: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("BCFUSION_TRUST", named)
    assert output_of(planted) == 0.5


@pytest.mark.parametrize("named", ["plant", "planted.net", "", ","])
def test_a_part_of_its_name_is_not_enough(planted: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("BCFUSION_TRUST", named)
    with pytest.raises(CheckpointError, match="which is not a network of bcfusion"):
        load_generator(planted)


def test_consent_or_an_import_is_enough(planted: Path) -> None:
    assert output_of(planted, trust_code=True) == 0.5
    assert output_of(planted) == 0.5  # imported by now


@pytest.mark.parametrize(
    "line", ["_target_: planted.other.Net", "x: {_target_: 'planted.nets.Net'}", '"_target_": planted.a']
)
def test_a_package_that_the_own_configuration_names_is_trusted(planted: Path, line: str) -> None:
    Path("conf/generator").mkdir(parents=True)
    Path("conf/generator/mine.yaml").write_text(line + "\n")
    Path("conf/generator/dangling.yaml").symlink_to("nowhere")
    assert output_of(planted) == 0.5


@pytest.mark.parametrize(
    "line", ["# planted.nets.Net", "_target_: torch.optim.AdamW", "_target_: planted_by.others.Net"]
)
def test_a_configuration_that_names_other_packages_is_not_enough(planted: Path, line: str) -> None:
    Path("conf/generator").mkdir(parents=True)
    Path("conf/generator/mine.yaml").write_text(line + "\n")
    with pytest.raises(CheckpointError, match="which is not a network of bcfusion"):
        load_generator(planted)


@pytest.mark.parametrize(
    "target",
    [
        "bcfusion.training.module.SpeechModule",  # not a network: it builds whatever it is given
        "bcfusion.generators.seanet.nn.parallel.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.jit.ScriptModule",
        "lightning.LightningModule",
        "planted.nets.Alias",  # leads out of a trusted package
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_modules_that_do_more_than_compute_need_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, nested: bool
) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "nets.py").write_text(NET.format(marker=tmp_path / "ran"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BCFUSION_TRUST", "planted,torch.nn.modules")
    node = {"_target_": target}
    with pytest.raises(CheckpointError, match=f"needs {target}, which is not a network of bcfusion"):
        build_generator({**SEANET, "channels": [{"deep": node}]} if nested else node, tmp_path)
    sys.modules.pop("planted.nets", None)
    sys.modules.pop("planted", None)


def test_a_library_can_be_named_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"_target_": "torch.ao.nn.quantizable.LSTM", "input_size": 1, "hidden_size": 1}
    monkeypatch.setenv("BCFUSION_TRUST", "torch.ao")
    assert build_generator(node, tmp_path)
    monkeypatch.setenv("BCFUSION_TRUST", "torch.jit")
    with pytest.raises(CheckpointError, match="which is not a network of bcfusion"):
        build_generator(node, tmp_path)


def test_layers_of_torch_and_losses_of_bcfusion_are_built_without_consent(tmp_path: Path) -> None:
    assert build_generator(
        {"_target_": "torch.nn.Conv1d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}, tmp_path
    )
    assert build_generator({"_target_": "bcfusion.losses.waveform.L1Loss"}, tmp_path)


@pytest.mark.parametrize("planted", ["bundle"], indirect=True)
def test_a_loss_is_left_out_unless_its_class_is_trusted(planted: Path) -> None:
    """Also if the network's own class is bcfusion's; a process that is told so builds what another has built."""
    network = Half()
    bundle = Bundle({}, 16000, ["body"], 1, 0, True, 0, {"losses": {"own": {"_target_": "planted.nets.Loss"}}})
    assert "not stored" in losses_of(bundle, network, planted)[1]
    assert "not stored" in losses_of(bundle, network, planted, trusted=())[1]
    assert "planted" not in sys.modules
    assert list(losses_of(bundle, network, planted, trusted=("own",))[0]) == ["own"]
    sys.modules.pop("planted.nets")
    assert list(losses_of(bundle, network, planted, trust_code=True)[0]) == ["own"]


def test_losses_and_discriminators_of_others_are_left_out(hub: FakeHub, tmp_path: Path) -> None:
    """Without them the network is whole, and is adapted by the losses that are left."""
    own = {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 2.0}
    losses = {"own": own, "bad": {"_target_": "os.system", "command": "true"}, "deep": {**own, "x": [dict(SEANET)]}}
    losses["deep"]["x"][0]["y"] = {"_target_": "subprocess.run"}
    judges = {"bad": {"_target_": "subprocess.run"}, "text": "os.system"}
    imported = {"source": "x", "discriminator_arguments": judges}
    publish(hub, tmp_path, {"training": {"losses": losses, "imported": imported}})
    bundle = bundle_of(load_generator(NAME))
    assert bundle is not None
    assert bundle.training["losses"] == {"own": own}
    assert bundle.training["imported"] == {"source": "x", "discriminator_arguments": {}}
    trusted = bundle_of(load_generator(NAME, trust_code=True))
    assert trusted is not None
    assert trusted.training["losses"] == losses
    pull("me/model", tmp_path / "pulled")
    text = (tmp_path / "pulled" / "config.yaml").read_text()
    assert "L1Loss" in text
    assert "os.system" not in text
    assert "subprocess" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"anything": [{"_target_": "bcfusion.data.corpora.folder.FolderCorpus"}]}},
        {"training": {"losses": {"_target_": "os.system"}}},
        {"generator": {**SEANET, "losses": {"x": {"_target_": "os.system"}}}},
        {"losses": {"x": {"_target_": "os.system"}}},
    ],
)
def test_classes_of_others_are_refused_everywhere_else(hub: FakeHub, tmp_path: Path, change: dict[str, Any]) -> None:
    publish(hub, tmp_path, change)
    assert "which is not a network of bcfusion" in refusal()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generator": {**SEANET, "mel_from": "/etc/passwd"}}, "the argument mel_from of its network is a place"),
        ({"generator": {**SEANET, "mel_from": "hf:evil/other"}}, "the argument mel_from of its network is a place"),
        ({"sample_rate": "{_target_: os.system}"}, "is damaged: in its config.yaml sensors must be names"),
        ({"sensors": ["${oc.env:HF_TOKEN}"]}, "is damaged: in its config.yaml sensors must be names"),
        *(({"sensors": [name]}, "sensors must be names") for name in ("a,b", "[a]", "a=b", "a\nb", "a\\", "")),
        ({"training": ["x"]}, "is damaged: in its config.yaml sensors must be names"),
        ({"note": "\x1b[2J"}, "holds control characters"),
        ({"note": "a\u202eb"}, "holds control characters"),
        ({"generator": {**SEANET, "\x1b]0;x\a": 1}}, r"holds the key '\x1b]0;x\x07'"),
        ({"training": {"recipe\n": "x"}}, r"holds the key 'recipe\n'"),
        ({"hop": float("inf")}, "a value is of the wrong kind"),
        ({"hop": 0}, "sample_rate and hop must be above 0"),
        ({"sample_rate": 0}, "sample_rate and hop must be above 0"),
        ({"generator": None}, "is no bundle of bcfusion"),
        ({"note": "x" * 1_000_000}, "more than the 100000 that such a file may have"),
    ],
)
def test_what_leads_elsewhere_is_refused(hub: FakeHub, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    publish(hub, tmp_path, change)
    assert says in refusal()


def test_a_card_cannot_steer_the_terminal(hub: FakeHub, tmp_path: Path) -> None:
    card = 'summary: "a\\e[2Jb"\nlicence: MIT\ndata: []\nsensors: {body: "\\e]0;x"}\nhelps: ["\\e[31m"]\n'
    publish(hub, tmp_path, {}, {"card.yaml": card.encode()})
    read = read_card(resolve_model(NAME).path / "card.yaml")
    assert read is not None
    assert (read.summary, read.sensors, read.helps) == ("a?[2Jb", {"body": "?]0;x"}, ("?[31m",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "it holds aliases"),
        ("a: &a {k: v}\nb: {<<: [*a, *a]}\n", "it holds aliases"),
        ("a: {<<: {k: v}}\n", "it holds merge keys"),
        ("deep: " + "[" * 3000 + "]" * 3000 + "\n", "it holds too many values"),
        ("many: [" + "a," * 21000 + "]\n", "it holds too many values"),
        ("note: 1" + ":1" * 40000 + "\n", "it holds endless numbers"),
        ("note: " + "1" * 5000 + "\n", "it holds endless numbers"),
        ("note: 0x" + "f" * 5000 + "\n", "it holds endless numbers"),
        ("note: !!int 1\n", "it holds tags"),
        ("note: 2001-99-99\n", "it is not YAML"),
    ],
)
def test_a_few_lines_cannot_become_a_flood(hub: FakeHub, tmp_path: Path, text: str, says: str) -> None:
    publish(hub, tmp_path, {})
    files = hub.files("me/model")
    config = files["config.yaml"] + text.encode()
    hub.repositories["me/model"].commit({**files, "config.yaml": config})
    assert says in refusal()
    hub.repositories["me/model"].commit({**files, "card.yaml": text.encode()})
    with pytest.raises(CheckpointError, match=says):
        read_card(resolve_model(NAME).path / "card.yaml")


def test_a_file_of_the_cache_that_has_grown_is_not_read(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, tmp_path, {})
    with (resolve_model(NAME).path / "config.yaml").open("a") as file:
        file.write("#" * 100_000)
    assert "is longer than the 100000 bytes" in refusal()


def test_keys_of_a_card_cannot_steer_the_terminal(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub, tmp_path, {}, {"card.yaml": b'"\\e[2Jx\\u202e": 1\n'})
    assert cli.main(["models", NAME]) == 2
    assert "is damaged: ?[2Jx? is no key of a card" in (said := capsys.readouterr().err)
    assert said.rstrip("\n").isprintable()
    node = b"{input: 1, enhanced: 1, change: 1}"
    card = (
        b'summary: x\nlicence: MIT\ndata: []\nsensors: {"\\e[2Jbody": x}\nscores: {what: x, metrics: {"\\e[2J": %b}}\n'
    )
    publish(hub, tmp_path / "again", {}, {"card.yaml": card % node})
    assert cli.main(["models", NAME]) == 0
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert str(tmp_path) not in printed  # no folder of the cache, which could be typed


def test_no_pickle_is_read_even_if_another_program_has_fetched_it(hub: FakeHub, tmp_path: Path) -> None:
    publish(hub, tmp_path, {}, {"checkpoints/best.ckpt": b"pickle", "best.ckpt": b"pickle", "model.bin": b"pickle"})
    import huggingface_hub

    huggingface_hub.snapshot_download("me/model")
    folder = resolve_model(NAME).path
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    load_generator(NAME)
    weights_of(folder)  # init_from=hf:me/model
    hub.add("me/model", {"checkpoints/best.ckpt": b"pickle", "best.ckpt": b"pickle"})
    assert "it has no config.yaml and no generator.safetensors" in refusal()


def test_weights_are_taken_from_a_network_of_any_class(hub: FakeHub, tmp_path: Path) -> None:
    folder = save_bundle(tmp_path / "own", Half(), {"_target_": "fake_hub.Half"}, ["body"], {})
    hub.add("me/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    found = initial_model(OmegaConf.create({"init_from": NAME}))
    assert weights_of(found.path)[0].keys() == {"gain"}


def test_an_evaluation_takes_the_task_alone_from_a_stranger(hub: FakeHub, tmp_path: Path) -> None:
    overrides = ["recipe=fusion", "sample_rate=8000", "+metrics.evil={_target_:os.system,command:id}"]
    overrides += ["data.root=/home/x", "hydra.job.chdir=true", "task.sensors=[${oc.env:HOME}]", "generator=/etc/evil"]
    publish(hub, tmp_path, {"training": {"config_dir": "/tmp/evil", "overrides": overrides}}, {})
    files = hub.files("me/model")
    record = {"run.json": b"{}", "overrides.yaml": b"[+metrics.evil={_target_:os.system}]"}
    hub.repositories["me/model"].commit({**files, **record})
    import huggingface_hub

    huggingface_hub.snapshot_download("me/model")
    used = recorded_for_evaluation(resolve_model(NAME).path)
    assert [each for each in used if not each.startswith("machine=")] == ["recipe=fusion", "sample_rate=8000"]
