"""What cannot be imported is refused in one or two lines that name the file, the tensor or the setting."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import FakeHub
from public_formats import AP_BWE, ap_bwe_shapes, eben_discriminators, eben_state, random, write_ap_bwe
from safetensors.torch import save_file
from torch import Tensor

from bcfusion.errors import CheckpointError, DataError
from bcfusion.importing.asteroid import licence_of
from bcfusion.importing.bundle import import_model
from bcfusion.importing.files import Found, find_files
from bcfusion.importing.source import find_source, source_names, summary_of
from bcfusion.importing.torchscript import read_archive
from bcfusion.importing.weights import Weights


def message(source: str, given: Path, tmp_path: Path, **options: Any) -> str:
    with pytest.raises((CheckpointError, DataError)) as caught:
        import_model(source, str(given), tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


# ---------------------------------------------------------------- tensors


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("conv_pre_mag.bias"), "1 missing (such as conv_pre_mag.bias)"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 unknown (such as extra)"),
        (
            lambda state: state.update({"norm_post_mag.weight": torch.ones(7)}),
            "1 of another shape (such as norm_post_mag.weight: (7,), the arguments ask for (24,))",
        ),
    ],
    ids=["missing", "unknown", "reshaped"],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[Any], Any], expected: str, tmp_path: Path) -> None:
    state = random(ap_bwe_shapes(AP_BWE))
    change(state)
    text = message("ap_bwe", write_ap_bwe(tmp_path / "public", state), tmp_path)
    assert text.startswith(f"{tmp_path / 'public' / 'g_test'} does not fit ApBwe: tensors ")
    assert expected in text


@pytest.mark.parametrize("style", ["weight_g, weight_v", "parametrizations"])
def test_weight_normalisation_is_folded_in_whichever_way_it_is_stored(style: str) -> None:
    layer = torch.nn.ConvTranspose1d(4, 2, 6)
    kind = torch.nn.utils.weight_norm if style == "weight_g, weight_v" else torch.nn.utils.parametrizations.weight_norm
    normed = torch.nn.Sequential(kind(layer))
    with torch.no_grad():
        for tensor in normed.parameters():
            tensor.mul_(1.7)
    state = {name: tensor.detach().clone() for name, tensor in normed.state_dict().items()}
    assert not any(name == "0.weight" for name in state)
    normed(torch.zeros(1, 4, 3))  # brings the weight up to date
    weights = Weights(state, Path("g_1"))
    assert set(weights.left) == {"0.weight", "0.bias"}
    torch.testing.assert_close(weights.left["0.weight"], layer.weight.detach())


def test_a_pickle_with_anything_but_tensors_is_not_loaded(tmp_path: Path) -> None:
    write_ap_bwe(tmp_path / "public")
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    torch.save({"generator": Trap()}, tmp_path / "public" / "g_test")
    text = message("ap_bwe", tmp_path / "public", tmp_path)
    assert "holds tensors and plain values only" in text
    assert not ran.exists()


def test_an_archive_of_torchscript_is_read_without_its_classes(tmp_path: Path) -> None:
    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv1d(1, 2, 3)
            self.register_buffer("rate", torch.tensor(48000))
            self.sizes = [1, 2]

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    part = Part()
    torch.jit.save(torch.jit.trace(part, torch.zeros(1, 1, 8)), tmp_path / "part.pt")
    read = read_archive(tmp_path / "part.pt")
    assert set(read) == set(part.state_dict())
    assert all(torch.equal(read[name], tensor) for name, tensor in part.state_dict().items())


def test_an_archive_with_another_class_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    with zipfile.ZipFile(tmp_path / "trap.pt", "w") as archive:
        archive.writestr("trap/data.pkl", pickle.dumps({"weight": Trap()}))
        archive.writestr("trap/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"trap\.pt cannot be read .* which is no tensor"):
        read_archive(tmp_path / "trap.pt")
    assert not ran.exists()


# ---------------------------------------------------------------- EBEN


def write_eben(folder: Path, state: dict[str, Tensor], **config: int) -> Path:
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_configuration_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    folder = write_eben(tmp_path / "public", eben_state(2), m=4, n=32, p=1)
    assert "config.json says p=1, but the tensors in model.safetensors are those of p=2" in message(
        "eben", folder, tmp_path
    )


def test_a_filter_bank_of_another_kind_is_noticed(tmp_path: Path) -> None:
    state = eben_state(2)
    state["pqmf.analysis_weights"] = state["pqmf.analysis_weights"].roll(1, -1)
    text = message("eben", write_eben(tmp_path / "public", state), tmp_path)
    assert "the taps in pqmf.analysis_weights are not those of a cosine-modulated Kaiser window" in text


def test_the_filters_of_an_imported_eben_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    found = import_model("eben", str(write_eben(tmp_path / "public", eben_state(2))), tmp_path / "bundle")
    assert found.generator["cutoff"] == pytest.approx(0.1588, abs=1e-6)
    assert found.generator["filter_gain"] == pytest.approx(0.9995, abs=1e-6)
    assert not (tmp_path / "bundle" / "discriminators.safetensors").exists()


def test_discriminators_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = write_eben(tmp_path / "public", eben_state(2))
    text = message("eben", folder, tmp_path, discriminators=str(folder))
    assert "has no tensor pqmf_discriminators.0.discriminator.1.0.weight" in text


def test_the_discriminators_of_a_lightning_checkpoint_come_along(tmp_path: Path) -> None:
    state = {f"generator.{name}": tensor for name, tensor in eben_state(2).items()}
    state |= {f"discriminator.{name}": tensor for name, tensor in eben_discriminators(q=3, min_channels=6).items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer_states": [{"lr": 3e-4}]}, tmp_path / "last.ckpt")
    found = import_model("eben", str(tmp_path / "last.ckpt"), tmp_path / "bundle")
    assert found.discriminators["pqmf_bands"]["q"] == 3
    assert (tmp_path / "bundle" / "discriminators.safetensors").is_file()


def test_the_discriminators_may_be_in_a_lightning_checkpoint_of_their_own(tmp_path: Path) -> None:
    state = {f"generator.{name}": tensor for name, tensor in eben_state(1).items()}
    state |= {f"discriminator.{name}": tensor for name, tensor in eben_discriminators().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    folder = write_eben(tmp_path / "public", eben_state(2))
    found = import_model("eben", str(folder), tmp_path / "bundle", discriminators=str(tmp_path / "last.ckpt"))
    assert found.generator["input_bands"] == 2
    assert found.discriminators["pqmf_bands"]["min_channels"] == 8
    assert any(note.startswith("The discriminators are those of the file last.ckpt") for note in found.card.notes)


# ---------------------------------------------------------------- settings of asteroid and HiFi-GAN


def test_the_licence_that_the_file_of_asteroid_states_is_given(tmp_path: Path) -> None:
    infos = {"license_note": 'This work is licensed under <a href="x">CC BY-SA 3.0</a>\nby somebody.'}
    torch.save({"infos": infos}, tmp_path / "model.pth")
    assert licence_of(Found(tmp_path / "model.pth")) == "This work is licensed under CC BY-SA 3.0 by somebody."


def write_asteroid(file: Path, name: str = "ConvTasNet", **args: Any) -> Path:
    torch.save({"model_name": name, "model_args": args, "state_dict": {"x": torch.zeros(1)}, "infos": {}}, file)
    return file


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"causal": True}, "causal=True cannot be imported"),
        ({"norm_type": "fgLN"}, "norm_type=fgLN cannot be imported"),
        ({"mask_act": "tanh"}, "mask_act=tanh cannot be imported"),
        ({"fb_name": "ParamSincFB"}, "fb_name=ParamSincFB cannot be imported"),
        ({"stride": 4}, "stride=4 must be half of kernel_size=16"),
        ({"skip_chan": 64}, "skip_chan=64 must be 0 or bn_chan=128"),
        ({"out_chan": 256}, "out_chan=256 must be n_filters=512"),
        ({"mask_act": "softmax", "n_src": 3}, "mask_act=softmax needs n_src=2"),
        ({"n_src": 2}, "separates 2 sources, and a bundle has one estimate: choose one by --source-index 0 to 1"),
    ],
)
def test_settings_that_the_network_lacks_are_named(args: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in message("conv_tasnet", write_asteroid(tmp_path / "model.pth", **args), tmp_path)


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    text = message("conv_tasnet", write_asteroid(tmp_path / "model.pth", n_src=2), tmp_path, source_index=2)
    assert text.startswith("--source-index 2: ")


def test_another_model_of_asteroid_is_named(tmp_path: Path) -> None:
    text = message("dccrn", write_asteroid(tmp_path / "model.pth", "DPRNNTasNet"), tmp_path)
    assert "is a DPRNNTasNet; this source imports DCCRNet only" in text


def test_the_residual_blocks_of_hifigan_v3_are_refused(tmp_path: Path) -> None:
    h = {
        **{"resblock": "2", "upsample_rates": [8], "upsample_kernel_sizes": [16], "upsample_initial_channel": 8},
        **{"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "num_mels": 80, "n_fft": 64},
        **{"hop_size": 8, "win_size": 64, "sampling_rate": 22050, "fmin": 0, "fmax": 8000},
    }
    torch.save({"generator": {}}, tmp_path / "g_1")
    (tmp_path / "config.json").write_text(json.dumps(h))
    assert "resblock=2 has residual blocks of another kind (HiFi-GAN V3)" in message("hifigan", tmp_path, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**h, "resblock": "1", "hop_size": 16}))
    assert "the product of upsample_rates=[8] must be hop_size=16" in message("hifigan", tmp_path, tmp_path)


# ---------------------------------------------------------------- files and the hub


def test_a_missing_configuration_is_asked_for(tmp_path: Path) -> None:
    file = write_ap_bwe(tmp_path / "public")
    (tmp_path / "public" / "config.json").unlink()
    assert "has no config.json, which holds the arguments of the network: put it beside g_test" in message(
        "ap_bwe", file, tmp_path
    )


def test_a_choice_among_several_checkpoints_is_left_to_the_user(tmp_path: Path) -> None:
    write_ap_bwe(tmp_path / "public")
    torch.save({}, tmp_path / "public" / "g_2")
    assert "holds several checkpoints (g_2, g_test): give the path of one" in message(
        "ap_bwe", tmp_path / "public", tmp_path
    )


def test_a_path_with_a_typing_mistake_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ap_bwe(tmp_path / "public")
    monkeypatch.chdir(tmp_path)
    assert (
        message("ap_bwe", Path("public/g_tset"), tmp_path) == "there is no public/g_tset; did you mean public/g_test?"
    )


def test_a_repository_of_the_hub_is_fetched_with_its_revision(tmp_path: Path, hub: FakeHub) -> None:
    write_eben(tmp_path / "public", eben_state(2), m=4, n=32, p=2)
    files = {file.name: file.read_bytes() for file in (tmp_path / "public").iterdir()}
    commit = hub.add("Cnam-LMSSC/EBEN_throat_microphone", {**files, "optimizer.pt": b"x"})
    hub.repositories["Cnam-LMSSC/EBEN_throat_microphone"].branches["v1"] = [commit]
    found = import_model("eben", "Cnam-LMSSC/EBEN_throat_microphone@v1", tmp_path / "bundle")
    assert f"Cnam-LMSSC/EBEN_throat_microphone of the Hugging Face hub, revision {commit}" in found.card.notes[1]
    assert not any("optimizer" in request for request in hub.requests)


def test_without_a_connection_the_message_names_the_files_to_bring(tmp_path: Path, hub: FakeHub) -> None:
    hub.broken = 503
    text = message("eben", Path("Cnam-LMSSC/EBEN_temple_vibration_pickup"), tmp_path)
    first, second = text.splitlines()
    assert first.endswith("the hub answers with an error (503), and an earlier download is not in the cache")
    assert second.startswith("bring config.json and model.safetensors of its repository")


def test_without_huggingface_hub_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'bcfusion[hub]'" in message("eben", Path("Cnam-LMSSC/EBEN_throat_microphone"), tmp_path)


def test_a_file_beside_the_working_directory_comes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_eben(tmp_path / "own" / "model", eben_state(2))
    monkeypatch.chdir(tmp_path)
    assert find_files("own/model", ["model.safetensors"], "config.json").repository is None


def test_every_source_has_a_summary_and_can_be_imported() -> None:
    for name in source_names():
        assert summary_of(name)
        assert find_source(name).licence
