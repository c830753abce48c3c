"""``export``, ``import`` and ``push --dry-run`` of models that a stranger made: refused in a few lines, or done whole.

The readers themselves are tried in test_hostile_content; here the verbs are, from the words to the exit status.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from public_formats import AP_BWE, write_ap_bwe
from safetensors.torch import save
from test_hostile_content import BUNDLE, SIZES, WEIGHTS, _nothing_is_run, tried  # noqa: F401 # a fixture of both

pytest.importorskip("hypothesis")
import hostile_content as hostile
from hypothesis import given

from bcfusion.cli import main
from bcfusion.generators.seanet import SEANet
from bcfusion.run import checkpoint

CONTROL = "\x1b[2J\x1b]0;gone\x07"
IDENTITY = {
    **BUNDLE,
    "generator": {"_target_": "bcfusion.generators.identity.Identity"},
    **{"hop": 1, "delay": 0, "causal": True, "receptive_field": [0, 0]},
}
CARD = {"summary": "what it does", "licence": "MIT", "data": [], "notes": ["a note"]}
VERBS: dict[str, Callable[[Path, Path], list[str]]] = {
    # a program of torch.export takes a tenth of the time that an ONNX file takes, and has the same metadata
    "export": lambda model, out: ["export", str(model), "--format", "torch", "--output", str(out / "model.pt2")],
    "import": lambda model, out: ["import", "ap_bwe", str(model), "--output", str(out / "bundle")],
    "push": lambda model, out: ["push", str(model), "me/model", "--no-onnx", "--dry-run", str(out / "package")],
}


def called(words: list[str]) -> tuple[int, str, str]:
    """Return the exit status of a command in this process, and what it printed; a traceback passes as an exception."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            status = int(main(words) or 0)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, printed.getvalue(), errors.getvalue()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Give a new folder, which is removed whatever is in it."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def ends_well(verb: str, model: Path, out: Path) -> int:
    """Call a verb and check how it ends: done, or refused in a few lines, with nothing written."""
    hostile.TOUCHED.clear()
    out.mkdir(exist_ok=True)
    status, printed, errors = called(VERBS[verb](model, out))
    assert status in (0, 2), errors
    assert "Traceback" not in errors
    assert "\x1b" not in printed + errors
    if status:
        assert 1 <= len(errors.strip().splitlines()) <= 15, errors
        assert len(errors) < 20_000
        assert not [file for file in out.rglob("*") if file.is_file()], "what is refused leaves nothing"
    else:
        assert [file for file in out.rglob("*") if file.is_file()]
    assert not hostile.TOUCHED, "what a model names is not called"
    return status


def bundle(place: Path, description: Any = IDENTITY, weights: bytes | None = None, card: Any = None) -> Path:
    """Write a bundle of a description (a tree, or the bytes of its file) and weights."""
    place.mkdir()
    content = description if isinstance(description, bytes) else hostile.as_yaml(description)
    (place / "config.yaml").write_bytes(content)
    (place / "generator.safetensors").write_bytes(save({}) if weights is None else weights)
    if card is not None:
        (place / "card.yaml").write_bytes(card if isinstance(card, bytes) else hostile.as_yaml(card))
    return place


def changed(**changes: Any) -> dict[str, Any]:
    return {**IDENTITY, **changes}


def linked(place: Path, name: str, target: str) -> Path:
    (bundle(place) / name).unlink()
    (place / name).symlink_to(target)
    return place


def piped(place: Path, name: str) -> Path:
    (bundle(place) / name).unlink()
    os.mkfifo(place / name)
    return place


def stored(place: Path, content: dict[str, Any]) -> Path:
    checkpoint.write(place.with_suffix(".ckpt"), content)
    return place.with_suffix(".ckpt")


class Trap:
    """Would write a file if its pickle were loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return hostile.touched, ("a pickle",)


def pickled(place: Path) -> Path:
    torch.save({"kind": "bcfusion-checkpoint", "generator": Trap()}, place.with_suffix(".ckpt"))
    return place.with_suffix(".ckpt")


def cut(file: Path) -> Path:
    os.truncate(file, file.stat().st_size // 2)
    return file


SEANET = SEANet(**SIZES)
STATE = {"generator": SEANET.state_dict(), "step": 1, "training": {}, "config": {"generator": BUNDLE["generator"]}}
#: what each verb refuses with status 2, and a word of the reason
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda place: place, "no model at "),
    "an empty folder": (lambda place: (place.mkdir(), place)[1], "model"),
    "an empty description": (lambda place: bundle(place, b""), "config.yaml"),
    "no YAML": (lambda place: bundle(place, b"{a: [1"), "config.yaml"),
    "bytes": (lambda place: bundle(place, b"\xff\xfe\x00\xd8" * 9), "config.yaml"),
    "a list": (lambda place: bundle(place, [1, 2]), "config.yaml"),
    "without end": (lambda place: bundle(place, b"[" * 100_000), "config.yaml"),
    "a newer format": (lambda place: bundle(place, changed(format=99)), "format"),
    "another's code": (lambda place: bundle(place, changed(generator={"_target_": "os.system"})), "os.system"),
    "code in an argument": (
        lambda place: bundle(
            place,
            changed(
                generator={
                    "_target_": "bcfusion.generators.seanet.SEANet",
                    "channels": {"_target_": "hostile_content.touched"},
                }
            ),
        ),
        "hostile_content",
    ),
    "an absurd size": (
        lambda place: bundle(place, {**BUNDLE, "generator": {**BUNDLE["generator"], "channels": 2**40}}, WEIGHTS()),
        "generator",
    ),
    "no network": (lambda place: bundle(place, changed(generator="x")), "config.yaml is damaged"),
    "no sensors": (lambda place: bundle(place, changed(sensors=[])), "sensor"),
    "escape sequences": (
        lambda place: bundle(place, changed(generator={"_target_": f"bcfusion.{CONTROL}"})),
        "bcfusion.",
    ),
    "weights cut off": (lambda place: bundle(place, BUNDLE, WEIGHTS()[:-100]), "safetensors"),
    "weights of another": (lambda place: bundle(place, BUNDLE, save({"a": torch.zeros(2)})), "does not fit SEANet"),
    "no weights": (lambda place: bundle(place, BUNDLE, b""), "safetensors"),
    "a header without end": (lambda place: bundle(place, BUNDLE, b"\xff" * 64), "safetensors"),
    "a card that is none": (lambda place: bundle(place, card=[1]), "card.yaml"),
    "a card without end": (lambda place: bundle(place, card=b"[" * 100_000), "card.yaml"),
    "a link to nothing": (lambda place: linked(place, "generator.safetensors", "nowhere"), "safetensors"),
    "a link to a device": (lambda place: linked(place, "config.yaml", "/dev/zero"), "config.yaml"),
    "a pipe": (lambda place: piped(place, "config.yaml"), "config.yaml"),
    "weights in a pipe": (lambda place: piped(place, "generator.safetensors"), "safetensors"),
    "a checkpoint of code": (pickled, ".ckpt"),
    "a checkpoint cut off": (lambda place: cut(stored(place, STATE)), ".ckpt"),
    "a checkpoint of nothing": (lambda place: stored(place, {}), ".ckpt"),
    "a checkpoint of other tensors": (
        lambda place: stored(place, {**STATE, "generator": {"a": torch.zeros(1)}}),
        ".ckpt",
    ),
    "a checkpoint of no tensors": (lambda place: stored(place, {**STATE, "generator": {"a": "b"}}), ".ckpt"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BCFUSION_MODELS", "")


@pytest.fixture(params=["export", "push"])
def verb(request: pytest.FixtureRequest) -> str:
    if request.param == "push":
        pytest.importorskip("huggingface_hub")
    return str(request.param)


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_is_none_is_refused_with_the_reason(case: str, verb: str, tmp_path: Path) -> None:
    make, says = REFUSED[case]
    model = make(tmp_path / "model")
    out = tmp_path / "out"
    assert ends_well(verb, model, out) == 2
    _, _, errors = called(VERBS[verb](model, out))
    assert says in errors, errors


@pytest.mark.slow
def test_a_model_of_which_nothing_is_wrong_is_exported_and_packed(verb: str, tmp_path: Path) -> None:
    model = bundle(tmp_path / "model", card=CARD)
    assert ends_well(verb, model, tmp_path / "out") == 0


@pytest.mark.slow
def test_any_description_and_card_are_done_whole_or_refused(verb: str) -> None:
    @tried(20)
    @given(hostile.contents(IDENTITY, hostile.as_yaml), hostile.contents(CARD, hostile.as_yaml))
    def check(description: bytes, card: bytes) -> None:
        with folder() as place:
            ends_well(verb, bundle(place / "model", description, card=card), place / "out")

    check()


@pytest.mark.slow
def test_any_weights_are_done_whole_or_refused(verb: str) -> None:
    @tried(10)
    @given(hostile.changed_bytes(WEIGHTS()))
    def check(weights: bytes) -> None:
        with folder() as place:
            ends_well(verb, bundle(place / "model", BUNDLE, weights), place / "out")

    check()


# ---------------------------------------------------------------- public checkpoints


def public(place: Path, state: Any = None, config: bytes | None = None) -> Path:
    """Write a checkpoint of AP-BWE, of what ``state`` says, and its ``config.json``."""
    file = write_ap_bwe(place)
    if state is not None:
        torch.save(state, file)
    if config is not None:
        (place / "config.json").write_bytes(config)
    return file


def overwritten(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def without(file: Path, name: str) -> Path:
    (file.parent / name).unlink()
    return file


def a_pipe(file: Path) -> Path:
    file.unlink()
    os.mkfifo(file)
    return file


NOT_IMPORTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda place: place / "g_test", "g_test"),
    "an empty file": (lambda place: overwritten(public(place), b""), "g_test"),
    "bytes": (lambda place: overwritten(public(place), b"\xff" * 1000), "g_test"),
    "a pickle of code": (lambda place: public(place, {"generator": Trap()}), "g_test"),
    "cut off": (lambda place: cut(public(place)), "g_test"),
    "a pipe": (lambda place: a_pipe(public(place)), "g_test"),
    "a list": (lambda place: public(place, [torch.zeros(1)]), "g_test"),
    "no tensors": (lambda place: public(place, {"generator": {"a": "b"}}), "g_test"),
    "names that are numbers": (lambda place: public(place, {"generator": {1: torch.zeros(1)}}), "g_test"),
    "escape sequences": (lambda place: public(place, {"generator": {CONTROL: torch.zeros(1)}}), "g_test"),
    "no settings": (lambda place: without(public(place), "config.json"), "config.json"),
    "settings that are none": (lambda place: public(place, config=b"[1]"), "config.json"),
    "settings without end": (lambda place: public(place, config=b"[" * 100_000), "config.json"),
    "an absurd size": (
        lambda place: public(place, config=json.dumps({**AP_BWE, "ConvNeXt_channels": 2**40}).encode()),
        "g_test: cannot build ",
    ),
    "a size that is no number": (
        lambda place: public(place, config=json.dumps({**AP_BWE, "n_fft": "many"}).encode()),
        "g_test: cannot build ",
    ),
}


@pytest.mark.parametrize("case", NOT_IMPORTED)
def test_a_public_checkpoint_that_is_none_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    make, says = NOT_IMPORTED[case]
    file, out = make(tmp_path / "public"), tmp_path / "out"
    assert ends_well("import", file, out) == 2
    _, _, errors = called(VERBS["import"](file, out))
    assert says in errors, errors


@pytest.mark.slow
def test_any_settings_and_weights_of_a_public_checkpoint_are_imported_whole_or_refused(tmp_path: Path) -> None:
    weights = public(tmp_path / "usual").read_bytes()
    assert ends_well("import", tmp_path / "usual" / "g_test", tmp_path / "imported") == 0

    @tried(30)
    @given(hostile.contents(AP_BWE, hostile.as_json))
    def settings(config: bytes) -> None:
        with folder() as place:
            ends_well("import", public(place / "public", config=config), place / "out")

    @tried(30)
    @given(hostile.changed_bytes(weights))
    def tensors(content: bytes) -> None:
        with folder() as place:
            ends_well("import", overwritten(public(place / "public"), content), place / "out")

    settings()
    tensors()
