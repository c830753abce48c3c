"""From a model to the hub and back, over the wire: the hub's real client, and a server on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fake_hub import TOKEN, FakeHub, Half
from hydra.core.override_parser.overrides_parser import OverridesParser
from made_up_runs import made_up_run, utterances

import bcfusion
from bcfusion import cli
from bcfusion.commands.shared.recorded import recorded_for_evaluation
from bcfusion.generators.seanet import SEANet
from bcfusion.nn.network import estimate_of
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.card import read_card
from bcfusion.run.description import read_description
from bcfusion.run.models import SHIPPED

SIZES: dict[str, Any] = {"channels": 2, "strides": [2, 4], "dilations": [1], "bottleneck_channels": 4}
CONFIG = {"_target_": "bcfusion.generators.seanet.SEANet", **SIZES}


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in the home folder of somebody who is logged in; it has a run and a recording."""
    home = tmp_path / "home" / "alice-liddell"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(home / "work")
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_run(home / "work" / "run", home)
    soundfile.write("recording.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 16000)
    return home / "work"


def write_run(folder: Path, home: Path) -> None:
    """Write a run whose record names places on this machine wherever real runs do."""
    made_up_run(folder, f"data.root={home}/speech", "generator.causal=true", closing=utterances(0.8))
    for file in (folder / "bundle").iterdir():
        file.unlink()
    record = json.loads((folder / "run.json").read_text())
    session = {"command": [f"{home}/venv/bin/bcfusion", "train"], "git": "0" * 40, "bcfusion": "0.1.0", "seed": 0}
    record |= {"config_dir": f"{home}/conf", "sessions": [{**record["sessions"][0], **session, "device": "cpu"}]}
    (folder / "run.json").write_text(json.dumps(record))
    training = {
        "recipe": "bone_to_air",
        "experiment": "seanet",
        "step": 200,
        "config_dir": f"{home}/conf",
        "overrides": ["experiment=seanet", f"data.root={home}/speech", "sample_rate=16000", f"output_root={home}/runs"],
        "adapted_to": [f"{home}/speech/a.wav"],
        "losses": {
            "l1": {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 1.0},
            "own": {"_target_": "bcfusion.losses.waveform.L1Loss", "stage_from": f"{home}/runs/x"},
        },
    }
    torch.manual_seed(0)
    save_bundle(folder / "bundle", SEANet(**SIZES), CONFIG, ["body"], training)


def run(*arguments: Any) -> int:
    return cli.main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What a command that fails says."""
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def typed(*arguments: str, **environment: str) -> str:
    """What a command prints in a process of its own, without a token."""
    source = str(Path(bcfusion.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "bcfusion", *arguments],
        env={**os.environ, "HF_TOKEN": "", "PYTHONPATH": source, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# ---------------------------------------------------------------- there and back


def test_a_run_is_pushed_pulled_and_loaded(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("push", "run", "me/throat", "--no-onnx", "--licence", "cc-by-4.0") == 0
    said = capsys.readouterr().out
    files = hub.files("me/throat")
    assert sorted(files) == ["README.md", "config.yaml", "generator.safetensors", "scores.csv"]
    assert hub.messages == ["SEANet: bone_to_air, seanet, step 200"]  # one commit
    [commit] = hub.repositories["me/throat"].commits
    assert f"revision {commit}" in said
    assert not hub.repositories["me/throat"].private
    head, *rows = files["scores.csv"].decode().splitlines()
    own_head, *own_rows = (place / "run" / "quality" / "test.csv").read_text().splitlines()
    assert head == own_head
    assert [row.partition(",")[2] for row in rows] == [row.partition(",")[2] for row in own_rows]
    assert {row.partition(",")[0] for row in rows} == {str(n) for n in range(1, 21)}
    assert b"adapted to 1 recorded pair" in files["README.md"]

    x = torch.randn(1, 1, 1000)
    wanted = load_generator("run")(x)
    model = bcfusion.load_generator("hf:me/throat")
    assert torch.equal(model(x), wanted)
    assert torch.equal(bcfusion.load_generator(f"hf:me/throat@{commit}")(x), wanted)
    used = bundle_of(model)
    assert used is not None
    assert used.training["hub"] == {"repository": "me/throat", "revision": commit}

    assert run("pull", "me/throat", "--output", "models/mine") == 0
    assert f"models/mine: me/throat, revision {commit}" in capsys.readouterr().out
    assert torch.equal(load_generator("models/mine")(x), wanted)
    pulled = read_description(Path("models/mine"))
    assert pulled.training["hub"] == {"repository": "me/throat", "revision": commit}
    assert pulled.training["overrides"] == ["experiment=seanet", "sample_rate=16000"]
    assert sorted(path.name for path in Path("models").iterdir()) == ["mine"]
    assert run("enhance", "models/mine", "recording.wav", "--output", "out") == 0
    assert run("push", "models/mine", "me/again", "--no-onnx") == 0
    assert hub.files("me/again")["generator.safetensors"] == files["generator.safetensors"]
    assert (
        f"- from `me/throat` of the Hugging Face hub, revision `{commit}`"
        in hub.files("me/again")["README.md"].decode()
    )
    report = ["--report", "report.csv"]
    assert run("enhance", "hf:me/throat", "recording.wav", "--output", "reported", *report) == 0
    assert f"hf:me/throat@{commit}" in Path("report.csv").read_text()


def test_a_flow_keeps_its_path(hub: FakeHub, place: Path, tmp_path: Path) -> None:
    config = {
        "_target_": "bcfusion.objectives.bridge.Bridge",
        "path": {"_target_": "bcfusion.objectives.paths.Flow", "sigma": 0.3},
        "domain": "waveform",
        "network": {**CONFIG, "_partial_": True},
    }
    training = {"overrides": ["experiment=seanet", "objective=flow", "objective.domain=waveform"]}
    generator = build_generator(config, place)
    save_bundle(place / "flow", generator, config, ["body"], training)
    assert run("push", "flow", "me/flow", "--no-onnx", "--licence", "cc-by-4.0") == 0
    model = bcfusion.load_generator("hf:me/flow")
    x = torch.randn(1, 1, 1000)
    assert torch.equal(model(x), generator.eval()(x))
    bundle = bundle_of(model)
    assert bundle is not None
    assert "objective=flow" in bundle.training["overrides"]


def test_nothing_that_is_uploaded_tells_where_it_was_made(hub: FakeHub, place: Path) -> None:
    assert run("push", "run", "me/throat", "--no-onnx") == 0
    for name, content in hub.files("me/throat").items():
        for secret in (b"alice", b"/home", str(place).encode(), TOKEN.encode(), b"speech/", b"venv"):
            assert secret not in content, (name, secret)


@pytest.mark.parametrize(
    "words", ["made in {home}/speech", "bcfusion train data.root=/data/private/speech", "my token is hf_" + "b" * 34]
)
def test_a_card_that_tells_too_much_is_not_uploaded(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    card = {"summary": "x", "licence": "MIT", "data": [], "notes": [words.format(home=place.parent)]}
    Path("run/card.yaml").write_text(yaml.safe_dump(card))
    error = refused(capsys, "push", "run", "me/throat", "--no-onnx")
    assert "would tell everybody" in error or "would hold a token" in error
    assert "me/throat" not in hub.repositories
    assert refused(capsys, "push", "run", "me/throat", "--no-onnx", "--dry-run", "out")
    assert not Path("out").exists()


def test_a_dry_run_writes_what_an_upload_would_hold(
    hub: FakeHub, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("push", "run", "me/throat", "--no-onnx") == 0
    hub.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    assert run("push", "run", "me/throat", "--no-onnx", "--dry-run", "out") == 0
    assert {file.name: file.read_bytes() for file in Path("out").iterdir()} == hub.files("me/throat")
    assert hub.requests == []


def test_a_dry_run_replaces_nothing(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("push", "run", "me/throat", "--no-onnx", "--dry-run", "out") == 0
    for folder in ("run/bundle", "out"):  # the model itself: its copy for the hub lacks what belongs to this machine
        before = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        error = refused(capsys, "push", "run", "me/throat", "--no-onnx", "--dry-run", folder)
        assert error == f"{folder} exists and is not empty: give a new folder to --dry-run\n"
        assert {file.name: file.read_bytes() for file in Path(folder).iterdir()} == before
    Path("empty").mkdir()
    assert run("push", "run", "me/throat", "--no-onnx", "--dry-run", "empty") == 0


def test_what_is_meant_to_be_private_does_not_go_into_a_public_repository(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("me/throat", {"notes.txt": b"mine"})
    for branch in ([], ["--revision", "v2"]):
        error = refused(capsys, "push", "run", "me/throat", "--no-onnx", "--private", *branch)
        assert "me/throat is public: make it private in its settings on the hub, or leave out --private" in error
    assert hub.files("me/throat") == {"notes.txt": b"mine"}
    assert list(hub.repositories["me/throat"].branches) == ["main"]
    assert not any("/lfs" in asked or "/preupload" in asked for asked in hub.requests)
    hub.repositories["me/throat"].private = True
    assert run("push", "run", "me/throat", "--no-onnx", "--private") == 0


def test_a_branch_is_made_and_the_others_stay(hub: FakeHub, place: Path) -> None:
    assert run("push", "run", "me/throat", "--no-onnx", "--private") == 0
    old = hub.files("me/throat")["README.md"]
    assert (
        run("push", "run", "me/throat", "--no-onnx", "--revision", "v2", "--message", "louder", "--licence", "mit") == 0
    )
    assert hub.repositories["me/throat"].private
    assert hub.messages[-1] == "louder"
    assert hub.files("me/throat")["README.md"] == old
    assert b"license: mit" in hub.files("me/throat", "v2")["README.md"]
    assert run("pull", "me/throat@v2") == 0
    newest = hub.repositories["me/throat"].branches["v2"][-1]
    assert read_description(Path("throat")).training["hub"]["revision"] == newest


def test_files_of_an_earlier_model_do_not_stay_beside_other_weights(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("me/throat", {"model.onnx": b"of other weights", "notes.txt": b"mine", "card.yaml": b"old"})
    assert run("push", "run", "me/throat", "--no-onnx") == 0
    assert "model.onnx of an earlier model is deleted" in capsys.readouterr().out
    assert sorted(hub.files("me/throat")) == [
        *("README.md", "config.yaml", "generator.safetensors", "notes.txt", "scores.csv")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_what_the_card_says_can_be_run(hub: FakeHub, place: Path, causal: bool) -> None:
    bundle = save_bundle("bundle", SEANet(**SIZES, causal=causal), {**CONFIG, "causal": causal}, ["body"], {})
    assert run("push", bundle, "me/throat") == 0
    content = hub.files("me/throat")["model.onnx"]
    for secret in (b"alice", b"/home", str(place).encode(), b"site-packages"):
        assert secret not in content
    card = hub.files("me/throat")["README.md"].decode()
    use, onnx = blocks(card, "python")
    assert len([line for line in use.splitlines() if line]) <= 5
    exec(use, {})
    sound, rate = soundfile.read("restored.wav")
    assert (len(sound), rate) == (4000, 16000)
    found: dict[str, Any] = {}
    exec(onnx, found)
    assert found["y"].shape == ((1, 1, 128) if causal else (1, 1, 16000))
    enhance, *stream = blocks(card, "bash")[0].splitlines()
    assert run(*shlex.split(enhance)[1:]) == 0
    restored, _ = soundfile.read("restored/recording.wav")
    np.testing.assert_array_equal(restored, sound)
    assert len(stream) == causal
    if causal:
        played = [*shlex.split(stream[0])[1:], "--file", "recording.wav", "--output", "played.wav", "--no-pace"]
        assert run(*played) == 0


def test_a_shipped_model_goes_with_its_card_and_its_small_weights(hub: FakeHub, place: Path) -> None:
    assert run("push", "throat", "me/throat", "--no-onnx") == 0
    files = hub.files("me/throat")
    assert len(files["generator.safetensors"]) == (SHIPPED / "throat" / "generator.safetensors").stat().st_size
    assert run("pull", "hf:me/throat", "--output", "mine") == 0
    assert read_card(Path("mine/card.yaml")) == read_card(SHIPPED / "throat" / "card.yaml")
    x = torch.randn(1, 1, 3000)
    assert torch.equal(*(estimate_of(load_generator(name)(x)) for name in ("mine", "throat")))
    assert run("models", "hf:me/throat") == 0


@pytest.mark.slow
def test_the_verbs_take_a_model_of_the_hub_in_processes_of_their_own(hub: FakeHub, place: Path) -> None:
    assert run("push", "throat", "me/throat", "--no-onnx") == 0
    commit = hub.repositories["me/throat"].branches["main"][0]
    said = typed("enhance", "hf:me/throat", "recording.wav", "--output", "online")
    assert f"hf:me/throat: revision {commit} of the Hugging Face hub" in said
    hub.broken = 503
    said = typed("enhance", "hf:me/throat", "recording.wav", "--output", "offline", HF_HUB_OFFLINE="1")
    assert "from the cache: it is switched off (HF_HUB_OFFLINE)" in said
    assert Path("online/recording.wav").read_bytes() == Path("offline/recording.wav").read_bytes()
    said = typed("models", "hf:me/throat", HF_HUB_OFFLINE="1")
    assert "throat: Restores speech from a throat microphone." in said


@pytest.mark.slow
def test_a_model_of_the_hub_is_evaluated_listened_to_and_trained_from(hub: FakeHub, place: Path, speech: Path) -> None:
    assert run("push", "run", "me/throat", "--no-onnx") == 0
    data = ["data=folder", f"data.root={speech}", "data.workers=0", "metrics=[stoi]"]
    typed("evaluate", "hf:me/throat", *data, "trainer.max_test_items=1", "trainer.samples=0")
    assert list(Path("runs").glob("evaluation/*/scores.csv"))  # not in the cache of the hub
    typed("listen", "hf:me/throat", *data, "--utterances", "1", "--output", "page.html")
    assert Path("page.html").is_file()
    small = [f"generator.{key}={value}".replace(" ", "") for key, value in SIZES.items()]
    hub.requests.clear()
    said = typed(
        *("train", "experiment=seanet", *small, "discriminators=[]", "losses=[l1]", "init_from=hf:me/throat", *data),
        *("trainer.max_steps=1", "data.batch_size=1", "trainer.max_valid_items=1", "trainer.max_test_items=1"),
        *(
            "selection=stoi",
            "trainer.keep_best=[stoi]",
            "trainer.accelerator=cpu",
            "trainer.samples=0",
            "output_root=out",
        ),
    )
    commit = hub.repositories["me/throat"].branches["main"][0]
    assert f"init_from=hf:me/throat: revision {commit} of the Hugging Face hub" in said
    assert "HTTP Request" not in said
    assert hub.requests.count("GET /api/models/me/throat") == 1
    [config] = Path("out").glob("*/*/*/config.yaml")
    assert yaml.safe_load(config.read_text())["init_from"] == f"hf:me/throat@{commit}"
    assert run("push", config.parent, "me/trained", "--no-onnx") == 0  # a real run under somebody's home
    files = hub.files("me/trained")
    assert {"README.md", "scores.csv"} <= files.keys()
    for name, content in files.items():
        for secret in (b"alice", str(speech).encode(), str(place).encode(), TOKEN.encode()):
            assert secret not in content, (name, secret)
    card = files["README.md"].decode()
    assert "- experiment: `seanet`" in card
    assert "On the test files: 1 utterance of 1 speaker" in card


# ---------------------------------------------------------------- refusals


def test_without_a_token_nothing_is_prepared(
    hub: FakeHub, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    error = refused(capsys, "push", "run", "me/throat")
    assert error.startswith("me/throat: the Hugging Face hub asks who you are\nlog in by hf auth login")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not know the token: log in by hf auth login" in refused(capsys, "push", "run", "me/throat")
    assert hub.repositories == {}


def test_the_hub_refuses_the_place_of_others(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "push", "run", "others/throat", "--no-onnx")
    assert "others/throat: the Hugging Face hub refuses: the token does not allow it" in error
    for name in ("throat", "me/a/b", "me/throat@v2", "hf:me/throat"):
        assert "names no repository: write OWNER/NAME" in refused(capsys, "push", "run", name)
    hub.broken = 503
    assert "the hub answers with an error (503)" in refused(capsys, "push", "run", "me/throat", "--no-onnx")


def test_a_private_repository_needs_its_token(
    hub: FakeHub, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("push", "run", "me/throat", "--no-onnx", "--private") == 0
    monkeypatch.delenv("HF_TOKEN")
    error = refused(capsys, "pull", "me/throat", "--output", "mine")
    assert "there is no such repository, or it is private: then log in by hf auth login" in error
    hub.repositories["me/throat"].private = False
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    error = refused(capsys, "pull", "me/throat", "--output", "mine")
    assert "the hub does not know the token: log in by hf auth login, or correct HF_TOKEN" in error
    assert not Path("mine").exists()


def test_pull_never_replaces_anything_unasked(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("push", "throat", "me/throat", "--no-onnx") == 0
    assert run("pull", "me/throat") == 0
    assert "throat holds a bundle: give --overwrite" in refused(capsys, "pull", "me/throat")
    assert run("pull", "me/throat", "--overwrite") == 0
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("x")
    assert "holds other things than a model" in refused(capsys, "pull", "me/throat", "--output", "other", "--overwrite")
    assert Path("other/thesis.tex").is_file()
    assert "names no repository" in refused(capsys, "pull", "throat")
    assert "hf:me/. names no repository" in refused(capsys, "pull", "me/.")
    assert len(refused(capsys, "pull", "me/" + "x" * 5000)) < 250


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config.yaml": b"generator: {_target_: os.system}\nsensors: [a]\nsample_rate: 1\n"}, "needs os.system"),
        ({"config.yaml": b"generator: ["}, "config.yaml is damaged: it is not YAML"),
        ({"generator.safetensors": b"\xff" * 100}, "is damaged or not a safetensors file"),
        ({"generator.safetensors": b"../../../home/me/.ssh/id_rsa"}, "is damaged or not a safetensors file"),  # a link
        ({"card.yaml": b"summary: [x]\n"}, "is damaged"),
    ],
)
def test_a_damaged_or_hostile_repository_leaves_no_folder(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str], change: dict[str, bytes], says: str
) -> None:
    shipped = {file.name: file.read_bytes() for file in (SHIPPED / "throat").iterdir()}
    hub.add("me/x", {**shipped, **change, "../escaped": b"x", "best.ckpt": b"x", "run.json": b"{}"})
    assert says in refused(capsys, "pull", "me/x", "--output", "models/mine")
    assert list(Path("models").glob("*")) == []  # no part of it either, hidden or not
    assert not list(place.rglob("escaped"))


def test_a_network_of_ones_own_goes_without_its_code(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bundle("own", Half(), {"_target_": "fake_hub.Half"}, ["body"], {})
    assert run("push", "own", "me/own", "--no-onnx") == 0
    assert (
        "note: the code of fake_hub.Half is not uploaded: whoever uses the model has to install it"
        in capsys.readouterr().out
    )
    assert "needs fake_hub.Half" in refused(capsys, "pull", "me/own", "--output", "own_pulled")
    assert not Path("own_pulled").exists()
    assert run("pull", "me/own", "--trust-code", "--output", "own_pulled") == 0
    assert "needs fake_hub.Half" in refused(capsys, "enhance", "hf:me/own", "recording.wav", "--output", "out")
    assert run("enhance", "hf:me/own", "recording.wav", "--output", "out", "--trust-code") == 0
    assert "trust_code" in refused(capsys, "evaluate", "hf:me/own")


def test_a_loss_of_ones_own_stays_at_home(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"_target_": "bcfusion.losses.waveform.L1Loss", "weight": 2.0}
    losses = {"l1": own, "mine": {"_target_": "fake_hub.Half"}}
    save_bundle("mine", SEANet(**SIZES), CONFIG, ["body"], {"recipe": "bone_to_air", "losses": losses})
    assert run("push", "mine", "me/mine", "--no-onnx") == 0
    said = capsys.readouterr().out
    assert "note: the loss mine is left out: its class is not part of bcfusion; adapt does without it\n" in said
    assert "--trust-code" not in said
    bundle = bundle_of(bcfusion.load_generator("hf:me/mine"))  # by anybody
    assert bundle is not None
    assert bundle.training["losses"] == {"l1": own}


def test_a_sensor_may_have_any_name_that_can_be_typed(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n, name in enumerate(("Kehlkopf links", 'the "left" one', "Ohr-Größe", "it's")):
        bundle = save_bundle(f"sensor{n}", SEANet(**SIZES), CONFIG, [name], {})
        assert run("push", bundle, f"me/sensor{n}", "--no-onnx") == 0
        loaded = bundle_of(bcfusion.load_generator(f"hf:me/sensor{n}"))
        assert loaded is not None
        assert loaded.sensors == [name]
        [typed_sensors] = [each for each in recorded_for_evaluation(bundle) if each.startswith("task.sensors")]
        assert OverridesParser.create().parse_override(typed_sensors).value() == [name]
    for name in ("${oc.env:HOME}", "a,b", "a=b", "[a]", "a\nb", "a\u202eb", "", " a"):
        bundle = save_bundle("named", SEANet(**SIZES), CONFIG, [name], {})
        assert "could not name the sensor" in refused(capsys, "push", bundle, "me/named", "--no-onnx")
    assert "me/named" not in hub.repositories


def test_two_licences_are_not_uploaded(hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run/card.yaml").write_text(yaml.safe_dump({"summary": "x", "licence": "CC BY 4.0", "data": []}))
    error = refused(capsys, "push", "run", "me/throat", "--no-onnx", "--licence", "mit")
    assert "--licence mit differs from the licence in card.yaml, CC BY 4.0: correct one of them" in error
    assert "me/throat" not in hub.repositories
    assert run("push", "run", "me/throat", "--no-onnx", "--licence", "cc-by-4.0") == 0


def test_a_card_without_metrics_leaves_the_scores_of_the_run(
    hub: FakeHub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"summary": "x", "licence": "MIT", "data": [], "scores": {"what": "Ten held-out speakers."}}
    Path("run/card.yaml").write_text(yaml.safe_dump(card))
    assert run("push", "run", "me/throat", "--no-onnx") == 0
    assert "scores.csv" in hub.files("me/throat")
    save_bundle("bare", SEANet(**SIZES), CONFIG, ["body"], {})
    Path("bare/card.yaml").write_text(yaml.safe_dump(card))
    assert run("push", "bare", "me/bare", "--no-onnx") == 0
    assert "note: it has no scores" in capsys.readouterr().out
