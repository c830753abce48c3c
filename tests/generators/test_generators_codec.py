"""Codecs of the package transformers, tiny ones with random weights, saved by that package itself."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_hub import FakeHub
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bcfusion import cli
from bcfusion.configuration.check import verify
from bcfusion.configuration.compose import drop_unchosen
from bcfusion.errors import AudioError, ConfigError
from bcfusion.generators.codec import Codec
from bcfusion.generators.codec_model import quantised
from bcfusion.losses.latent import LatentL1Loss
from bcfusion.nn.codec_layers import CodecTransformer
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.bundle_files import read_bundle
from bcfusion.run.record import Provenance
from bcfusion.run.trust import require_own_code
from bcfusion.training.assemble import build_module
from bcfusion.training.run import train

transformers = pytest.importorskip("transformers", reason="needs pip install 'bcfusion[codec]'")

TARGET = "bcfusion.generators.codec.Codec"
SIZES: dict[str, dict[str, Any]] = {
    "encodec": {
        "num_filters": 4,
        "hidden_size": 16,
        "upsampling_ratios": [4, 2],
        "codebook_size": 16,
        "target_bandwidths": [24.0, 48.0],
    },
    "dac": {
        "encoder_hidden_size": 8,
        "decoder_hidden_size": 32,
        "downsampling_ratios": [2, 5],
        "n_codebooks": 3,
        "codebook_size": 16,
        "codebook_dim": 4,
    },
    "mimi": {
        "num_filters": 4,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "upsample_groups": 32,
        "upsampling_ratios": [4, 2],
        "sliding_window": 7,
        "layer_scale_initial_scale": 0.5,
        "codebook_size": 16,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "num_quantizers": 4,
    },
}
CLASSES = {"encodec": "Encodec", "dac": "Dac", "mimi": "Mimi"}
families = pytest.mark.parametrize("family", list(SIZES))


def library_model(family: str, seed: int = 0, **settings: Any) -> Any:
    """A codec of the library, with random codebooks, which it leaves at zero."""
    config = getattr(transformers, f"{CLASSES[family]}Config")(**{**SIZES[family], **settings})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{CLASSES[family]}Model")(config).eval()
    for name, table in model.quantizer.named_buffers():
        if name.endswith(("embed", "embed_sum")):
            table.normal_()
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, Any]]:
    """Returns the folder of a codec, and the codec as the library builds it."""
    made: dict[str, tuple[str, Any]] = {}

    def store(family: str, **settings: Any) -> tuple[str, Any]:
        key = f"{family}{settings}"
        if key not in made:
            folder, model = tmp_path_factory.mktemp(family), library_model(family, **settings)
            model.save_pretrained(folder)
            made[key] = (str(folder), model)
        return made[key]

    return store


def sensor(samples: int, sensors: int = 1, batch: int = 2) -> Tensor:
    return 0.1 * torch.randn(batch, sensors, samples, generator=torch.Generator().manual_seed(samples))


def rate_of(model: Any) -> int:
    return int(model.config.sampling_rate)


def taught(codec: Codec, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
    lengths = torch.full((len(inputs),), inputs.shape[-1])
    return codec.teach({"inputs": inputs, "target": target, "lengths": lengths})


# ---------------------------------------------------------------- what it computes


@families
def test_with_its_codebooks_it_computes_what_the_library_computes(
    stored: Callable[..., tuple[str, Any]], family: str
) -> None:
    folder, model = stored(family)
    codec, plain = (
        Codec(rate_of(model), model=folder, quantizer=mode).eval() for mode in ("straight_through", "bypass")
    )
    x = sensor(40 * codec.hop)
    with torch.inference_mode():
        whole = F.pad(x, (0, codec.frame)) if codec.lacking else x  # whose decoder returns less than it was given
        theirs = model(whole, **({"bandwidth": 48.0} if family == "encodec" else {})).audio_values
        theirs = theirs.reshape(2, 1, -1)[..., : x.shape[-1]]
        assert theirs.shape == x.shape
        torch.testing.assert_close(codec(x), theirs, atol=1e-6 * float(theirs.abs().max()), rtol=0)
        assert (plain(x) - theirs).abs().max() > 1e-3 * theirs.abs().max()


def test_fewer_codebooks_are_those_of_a_lower_bandwidth(stored: Callable[..., tuple[str, Any]]) -> None:
    folder, model = stored("encodec")
    x = sensor(320)
    with torch.inference_mode():
        theirs = model(x, bandwidth=24.0).audio_values
        half = Codec(24000, model=folder, quantizer="straight_through", codebooks=2).eval()
        assert half.settings["target_bandwidths"] == [24.0, 48.0]
        torch.testing.assert_close(half(x), theirs)


@families
@pytest.mark.parametrize("rate", [8000, 16000])
def test_any_length_at_any_rate(stored: Callable[..., tuple[str, Any]], family: str, rate: int) -> None:
    codec = Codec(rate, 2, model=stored(family)[0]).eval()
    with torch.inference_mode():
        for samples in (1, codec.hop - 1, codec.hop, 3 * codec.hop + 1):
            y = codec(sensor(samples, 2))
            assert y.shape == (2, 1, samples)
            assert y.isfinite().all()
        with pytest.raises(AudioError, match="takes at least one sample"):
            codec(torch.zeros(1, 2, 0))


def test_signals_pass_the_codec_at_its_own_rate(stored: Callable[..., tuple[str, Any]]) -> None:
    """A codec whose encoder and decoder do nothing returns the signal, aligned, through both resamplers."""
    for family in ("dac", "mimi"):  # centred filters, and causal ones, which are late
        codec = Codec(16000, model=stored(family, sampling_rate=24000)[0]).eval()
        assert codec.causal == (family == "mimi")
        assert (codec.lookahead > 0) == codec.causal
        codec.encoder = codec.decoder = nn.Identity()
        codec.lacking = 0
        t = torch.arange(3200) / 16000
        x = torch.sin(2 * torch.pi * 700 * t)[None, None]
        with torch.inference_mode():
            torch.testing.assert_close(codec(x)[..., 400:-400], x[..., 400:-400], atol=1e-4, rtol=0)


@families
def test_no_output_depends_on_inputs_after_the_delay(stored: Callable[..., tuple[str, Any]], family: str) -> None:
    for rate in (rate_of(stored(family)[1]), 8000):
        codec = Codec(rate, model=stored(family)[0]).eval()
        assert codec.delay is not None
        start = (codec.delay // codec.hop + 9) * codec.hop
        x = sensor(start + codec.delay + 9 * codec.hop, batch=1)
        reached = []
        for phase in {0, codec.hop // 2, codec.hop - 1}:
            poisoned = x.clone()
            poisoned[..., start + phase :] = torch.nan
            with torch.inference_mode():
                bad = ~codec(poisoned)[0, 0].isfinite()
            reached.append(start + phase - int(bad.int().argmax()))
        assert codec.delay - codec.hop < max(reached) <= codec.delay


def test_a_latent_that_is_not_finite_shows_through_the_codebooks(stored: Callable[..., tuple[str, Any]]) -> None:
    for mode in ("straight_through", "frozen"):
        codec = Codec(24000, model=stored("encodec")[0], quantizer=mode, teacher=True).eval()
        x = sensor(64, batch=2)
        x[0, 0, 40] = torch.nan
        with torch.inference_mode():
            y = codec(x)
        assert y[0, :, 63].isnan().all()
        assert y[1].isfinite().all()


def test_a_normalised_codec_returns_the_level_of_the_sensor(stored: Callable[..., tuple[str, Any]]) -> None:
    folder, model = stored("encodec", normalize=True)
    codec = Codec(24000, model=folder, quantizer="straight_through").eval()
    assert codec.delay is None
    assert not codec.causal
    x = sensor(320)
    with torch.inference_mode():
        torch.testing.assert_close(codec(x), model(x, bandwidth=48.0).audio_values, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(codec(0.01 * x), 0.01 * codec(x), atol=1e-6, rtol=1e-3)
    silence = torch.zeros(1, 1, 64, requires_grad=True)
    codec(silence).sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_all_sensors_start_as_the_mean_of_their_latents(stored: Callable[..., tuple[str, Any]]) -> None:
    folder, _ = stored("dac")
    one, all_of_them = Codec(model=folder).eval(), Codec(in_channels=2, model=folder, sensor=None).eval()
    x = sensor(200)
    with torch.inference_mode():
        torch.testing.assert_close(all_of_them(x.expand(-1, 2, -1)), one(x))
        both = torch.cat([x, sensor(210)[..., :200]], dim=1)
        mean = (one.encoder(F.pad(both[:, :1], (0, 10))) + one.encoder(F.pad(both[:, 1:], (0, 10)))) / 2
        torch.testing.assert_close(all_of_them(both), one.decoder(mean)[..., :200])
        first = Codec(in_channels=2, model=folder, sensor=0).eval()
        torch.testing.assert_close(first(both), one(x))


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("family", "settings"), [("mimi", {}), ("mimi", {"num_residual_layers": 2}), ("encodec", {"pad_mode": "constant"})]
)
@pytest.mark.parametrize("rate", [24000, 16000])
def test_chunks_give_what_the_whole_file_gives(
    stored: Callable[..., tuple[str, Any]], family: str, settings: dict[str, Any], rate: int
) -> None:
    codec = Codec(rate, model=stored(family, **settings)[0]).eval().double()
    assert codec.causal
    assert codec.delay == codec.lookahead + codec.hop - 1
    x = sensor(24 * codec.hop).double()
    with torch.inference_mode():
        whole = codec(x)
        for hops in (1, 3):
            with codec.streaming(2):
                stream = torch.cat([codec(chunk) for chunk in x.split(hops * codec.hop, dim=-1)], dim=-1)
            late = codec.lookahead
            difference = stream[..., late:] - whole[..., : whole.shape[-1] - late]
            assert difference.abs().max() < 1e-7 * whole.abs().max()  # angles are float32


def test_blocks_of_a_long_file_give_what_one_gives(stored: Callable[..., tuple[str, Any]]) -> None:
    codec = Codec(24000, model=stored("mimi")[0]).eval()
    x = sensor(40 * codec.hop)
    with torch.inference_mode():
        one = codec(x)
        for part in codec.modules():
            if isinstance(part, CodecTransformer):
                part.block = 6
        torch.testing.assert_close(codec(x), one, atol=1e-5 * float(one.abs().max()), rtol=0)


def test_zeros_at_the_head_let_a_published_encodec_stream(stored: Callable[..., tuple[str, Any]]) -> None:
    folder, _ = stored("encodec")
    mirrored, padded = (Codec(24000, model=folder, config=change) for change in (None, {"pad_mode": "constant"}))
    assert (mirrored.causal, padded.causal) == (False, True)
    assert mirrored.state_dict().keys() == padded.state_dict().keys()
    x = sensor(2400)
    with torch.inference_mode():
        heads = mirrored.eval()(x), padded.eval()(x)
    assert not torch.allclose(heads[0][..., :64], heads[1][..., :64], atol=1e-4)
    assert not Codec(24000, 2, model=folder, sensor=None, config={"pad_mode": "constant"}).causal
    assert not Codec(16000, model=stored("dac")[0]).causal


# ---------------------------------------------------------------- what is trained


def trained(codec: Codec) -> set[str]:
    return {name.split(".")[0] for name, p in codec.named_parameters() if p.grad is not None and p.grad.any()}


@families
@pytest.mark.parametrize("mode", ["bypass", "straight_through"])
def test_gradients_reach_what_is_trained_and_nothing_else(
    stored: Callable[..., tuple[str, Any]], family: str, mode: Any
) -> None:
    for part, expected in (("encoder", {"encoder"}), ("decoder", {"decoder"}), ("both", {"encoder", "decoder"})):
        codec = Codec(24000, 2, model=stored(family)[0], train=part, quantizer=mode).train()  # type: ignore[arg-type]
        codec(sensor(600, 2)).square().sum().backward()
        assert trained(codec) == expected
        assert {name.split(".")[0] for name, p in codec.named_parameters() if p.requires_grad} == expected
        fused = Codec(24000, 2, model=stored(family)[0], train=part, quantizer=mode, sensor=None)  # type: ignore[arg-type]
        fused(sensor(600, 2)).square().sum().backward()
        assert trained(fused) == expected | {"fusion"}
        assert not codec.quantizer.training


@families
def test_straight_through_passes_the_gradient_on_as_it_is(stored: Callable[..., tuple[str, Any]], family: str) -> None:
    codec = Codec(24000, model=stored(family)[0], quantizer="straight_through").train()
    latent = torch.randn(2, codec.settings.get("hidden_size", 32), 5, requires_grad=True)
    chosen, wanted = codec._chosen(latent), torch.randn(2, latent.shape[1], 5)
    with torch.no_grad():
        assert torch.equal(chosen, quantised(family, codec.quantizer, latent, codec.codebooks))
        assert not torch.allclose(chosen, latent, atol=0.1)
    (chosen * wanted).sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, wanted)
    frozen = Codec(24000, model=stored(family)[0], quantizer="frozen", teacher=True).train()
    assert torch.equal(frozen._chosen(latent), chosen)
    assert not frozen._chosen(latent).requires_grad


@families
def test_the_teacher_is_the_encoder_as_it_was(stored: Callable[..., tuple[str, Any]], family: str) -> None:
    codec = Codec(24000, model=stored(family)[0], train="encoder", quantizer="frozen", teacher=True).double()
    assert codec.provides == ("latent", "target_latent", "latent_mask")
    x, target = sensor(600).double(), sensor(610)[..., :600].double()
    with torch.no_grad():
        same = taught(codec, target, target)
    assert LatentL1Loss()(*(same[name] for name in codec.provides)) == 0
    before = taught(codec, x, target)
    loss = LatentL1Loss()(*(before[name] for name in codec.provides))
    difference = (before["latent"] - before["target_latent"]).abs()
    frames = -(-600 * codec.codec_rate // 24000 // codec.frame)
    torch.testing.assert_close(loss, difference[..., :frames].mean().float())
    assert not before["estimate"].requires_grad
    loss.backward()
    assert trained(codec) == {"encoder"}
    moved = [(p, p.grad) for p in codec.parameters() if p.grad is not None]
    squared = torch.stack([gradient.square().sum() for _, gradient in moved]).sum()
    with torch.no_grad():  # a small step: the loss has kinks
        for p, gradient in moved:
            p.sub_(1e-4 * loss / squared * gradient)
    after = taught(codec, x, target)
    assert LatentL1Loss()(*(after[name] for name in codec.provides)) < loss
    assert torch.equal(after["target_latent"], before["target_latent"])
    with torch.no_grad():
        estimate = codec.eval()(x)
    torch.testing.assert_close(after["estimate"], estimate)


def test_a_frozen_encoder_is_its_own_teacher(stored: Callable[..., tuple[str, Any]]) -> None:
    folder, _ = stored("dac")
    codec = Codec(model=folder, in_channels=2, sensor=None, train="decoder", teacher=True)
    assert not [name for name in codec.state_dict() if name.startswith("teacher.")]
    outputs = taught(codec, sensor(200, 2), sensor(200)[:, :1])
    outputs["latent"].sum().backward()
    assert codec.fusion.weight.grad is not None
    same = taught(codec, sensor(200)[:, :1].repeat(1, 2, 1), sensor(200)[:, :1])
    torch.testing.assert_close(same["latent"], same["target_latent"])


def test_frames_of_padding_do_not_count(stored: Callable[..., tuple[str, Any]]) -> None:
    codec = Codec(24000, model=stored("mimi")[0], teacher=True, train="encoder")
    x = sensor(20 * codec.hop)
    lengths = torch.tensor([20 * codec.hop, 3 * codec.hop + 1])
    outputs = codec.teach({"inputs": x, "target": x.flip(0), "lengths": lengths})
    assert outputs["latent_mask"].sum(1).tolist() == [20, 4]
    loss = LatentL1Loss()
    value = loss(outputs["latent"], outputs["target_latent"], outputs["latent_mask"])
    per_frame = (outputs["latent"] - outputs["target_latent"]).abs().mean(1)
    torch.testing.assert_close(value, (per_frame[0].mean() + per_frame[1, :4].mean()) / 2)
    outputs["latent"][1, :, 4:] = torch.nan
    assert torch.equal(loss(outputs["latent"], outputs["target_latent"], outputs["latent_mask"]), value)
    with pytest.raises(ValueError, match=r"must be \(B, D, N\)"):
        loss(outputs["latent"], outputs["target_latent"], outputs["latent_mask"][:, 1:])


def test_codebooks_follow_the_weights_that_are_loaded(stored: Callable[..., tuple[str, Any]]) -> None:
    """Mimi's codebooks compute their entries once, and again for other weights or on another device."""
    first, second = (
        Codec(24000, family="mimi", config=SIZES["mimi"], quantizer="straight_through").eval() for _ in range(2)
    )
    x = sensor(640)
    with torch.inference_mode():
        first(x), second(x)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(x), second(x))
        assert second.double()(x.double()).dtype == torch.float64


# ---------------------------------------------------------------- bundles


class NoNetwork(socket.socket):
    def connect(self, *_: Any) -> None:
        raise AssertionError("a connection was tried")


@families
def test_a_bundle_needs_neither_the_model_nor_a_network(
    stored: Callable[..., tuple[str, Any]], family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "codec"
    shutil.copytree(stored(family)[0], folder)
    arguments = {"sample_rate": 24000, "in_channels": 2, "model": str(folder), "sensor": None, "teacher": True}
    codec = Codec(**arguments, train="encoder", quantizer="straight_through").eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in codec.parameters():
            p.mul_(1.05)
    node = {"_target_": TARGET, **arguments, "train": "encoder", "quantizer": "straight_through"}
    bundle = save_bundle(tmp_path / "bundle", codec, node, ["body", "air"], {"step": 1})
    shutil.rmtree(folder)
    monkeypatch.setattr(socket, "socket", NoNetwork)
    description, _ = read_bundle(bundle)
    assert description.generator["model"] is None
    assert description.generator["family"] == family
    assert {**description.generator["config"], **SIZES[family]} == description.generator["config"]
    require_own_code(bundle, "the model")  # as of the hub
    again = load_generator(bundle)
    x = sensor(600, 2)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), codec(x))
    twice = save_bundle(tmp_path / "again", again, bundle_of(again).generator, ["body", "air"], {})  # type: ignore[union-attr]
    assert read_bundle(twice)[0].generator == description.generator


def test_a_bundle_of_a_stranger_that_names_a_model_is_refused(tmp_path: Path) -> None:
    codec = Codec(24000, family="encodec", config=SIZES["encodec"])
    node = {"_target_": TARGET, "sample_rate": 24000, "family": "encodec", "config": SIZES["encodec"]}
    bundle = save_bundle(tmp_path / "bundle", codec, node, ["body"], {})
    file = bundle / "config.yaml"
    file.write_text(re.sub("model: null", "model: hf:evil/codec", file.read_text()))
    with pytest.raises(Exception, match="the argument model of its network is a place on this machine or another"):
        require_own_code(bundle, "the model")


def small(stored: Callable[..., tuple[str, Any]], composed: Callable[..., DictConfig], *overrides: str) -> DictConfig:
    return composed("experiment=codec", "machine=gpu", f"generator.model={stored('mimi')[0]}", *overrides)


@pytest.mark.slow
def test_a_run_ships_a_bundle_that_restores_without_the_model(
    stored: Callable[..., tuple[str, Any]], composed: Callable[..., DictConfig], speech: Path, tmp_path: Path
) -> None:
    from conftest import SHORT

    folder = tmp_path / "codec"
    shutil.copytree(stored("mimi")[0], folder)
    options = ["data=folder", f"data.root={speech}", *SHORT, "trainer.max_steps=2", "trainer.validate_every=2"]
    cfg = composed("experiment=codec", "machine=gpu", f"generator.model={folder}", *options)
    assert verify(cfg) == []
    run = train(cfg, tmp_path / "run", Provenance("bone_to_air", "codec", [])).run_dir
    shutil.rmtree(folder)
    generator = load_generator(run)
    with torch.inference_mode():
        assert generator(sensor(5000, batch=1)).shape == (1, 1, 5000)
    GlobalHydra.instance().clear()  # of `composed`
    scores = tmp_path / "scores"
    assert cli.main(["evaluate", str(run), "metrics=[stoi]", "trainer.max_test_items=1", f"output={scores}"]) == 0
    assert (scores / "scores.csv").is_file()


def test_a_loss_of_the_latent_needs_a_teacher(
    stored: Callable[..., tuple[str, Any]], composed: Callable[..., DictConfig]
) -> None:
    cfg = small(stored, composed, "generator.teacher=false", "generator.quantizer=bypass")
    with pytest.raises(
        ConfigError, match=r"losses\.latent_l1: asks for latent, target_latent, latent_mask, which Codec"
    ):
        build_module(cfg)
    assert build_module(small(stored, composed))[0].generator.provides == Codec.provides


@pytest.mark.parametrize("part", ["encoder", "both"])
def test_an_encoder_that_learns_from_the_latent_alone_needs_a_loss_on_it(
    stored: Callable[..., tuple[str, Any]], composed: Callable[..., DictConfig], part: str
) -> None:
    for losses in ("losses=[mr_stft]", "losses.latent_l1.weight=0"):
        cfg = small(stored, composed, f"generator.train={part}", "losses=[latent_l1,mr_stft]", losses)
        drop_unchosen(cfg)
        with pytest.raises(ConfigError, match="losses: none asks for latent, and with these settings Codec learns"):
            build_module(cfg)


# ---------------------------------------------------------------- what is refused


def refusal(**arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Codec(**arguments)
    return str(caught.value)


def test_a_model_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert "model=kyutai/mimi: there is no such folder; on the Hugging Face hub it is hf:kyutai/mimi" in refusal(
        model="kyutai/mimi"
    )
    assert "is no hf:OWNER/NAME" in refusal(model="hf:mimi")
    (tmp_path / "mimi").mkdir()
    assert f"did you mean {tmp_path}/mimi?" in refusal(model=str(tmp_path / "mini"))
    assert "it has no config.json and no model.safetensors" in refusal(model=str(tmp_path / "mimi"))


def test_a_pickle_is_never_read(stored: Callable[..., tuple[str, Any]], tmp_path: Path) -> None:
    folder, model = stored("dac")
    shutil.copy(Path(folder) / "config.json", tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert (
        "it has no model.safetensors (pytorch_model.bin is a pickle, which can run code: it is never read)"
        in refusal(model=str(tmp_path))
    )


def test_only_settings_of_the_codec_itself_are_taken(stored: Callable[..., tuple[str, Any]], tmp_path: Path) -> None:
    """Others in that file name code: implementations of attention, and classes in the repository."""
    folder, _ = stored("mimi")
    shutil.copytree(folder, tmp_path / "evil")
    file = tmp_path / "evil" / "config.json"
    content = json.loads(file.read_text())
    evil = {"_attn_implementation": "evil/kernel", "attn_implementation": "evil/kernel", "auto_map": {"": "evil.Model"}}
    file.write_text(json.dumps({**content, **evil}))
    codec = Codec(24000, model=str(tmp_path / "evil"))
    assert "evil" not in json.dumps(codec.settings)
    assert set(codec.settings) == set(Codec(24000, model=folder).settings)
    assert "config._attn_implementation: mimi has no such setting" in refusal(
        model=folder, config={"_attn_implementation": "evil/kernel"}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "soundstream"}, "family='soundstream' must be one of encodec, dac, mimi"),
        (
            {"family": "dac", "config": {"codebooks": 3}},
            "config.codebooks: dac has no such setting; did you mean 'n_code",
        ),
        ({"family": "dac", "config": {"n_codebooks": "x"}}, "config: StrictDataclassFieldValidationError"),
        ({"family": "dac", "config": {**SIZES["dac"], "codebook_size": 7}}, "must be a power of 2"),
        (
            {"family": "encodec", "config": {**SIZES["encodec"], "audio_channels": 2}},
            "audio_channels=2: a codec of one",
        ),
        ({"family": "encodec", "config": {**SIZES["encodec"], "chunk_length_s": 1.0}}, "chunk_length_s=1.0: a codec"),
        ({"family": "encodec", "config": {**SIZES["encodec"], "pad_mode": "circular"}}, "pad_mode='circular' must be"),
        ({"family": "dac", "config": SIZES["dac"], "codebooks": 4}, "codebooks=4 must be from 1 to 3"),
        ({"family": "dac", "config": SIZES["dac"], "sensor": 1}, "sensor=1 must be from -1 to 0"),
        ({"train": "all"}, "train='all' must be one of encoder, decoder, both"),
        ({"quantizer": "none"}, "quantizer='none' must be one of bypass, straight_through, frozen"),
        (
            {"quantizer": "frozen", "train": "encoder"},
            "quantizer=frozen passes no gradient to the encoder: set teacher",
        ),
        ({"quantizer": "frozen", "train": "decoder", "sensor": None, "in_channels": 2}, "passes no gradient"),
        ({"train": "decoder", "teacher": True}, "teacher=true teaches the encoder, which train=decoder leaves"),
        (
            {"config": {**SIZES["dac"], "downsampling_ratios": [16, 32], "sampling_rate": 44100}, "family": "dac"},
            "coincide every 5.12 s only; set sample_rate=44100",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    assert message in refusal(**arguments)


def test_files_of_another_model_are_refused(stored: Callable[..., tuple[str, Any]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stored("dac")[0], tmp_path / "dac"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "bert"}))
    assert "is of the type bert, none of encodec, dac, mimi" in refusal(model=str(folder))
    (folder / "config.json").write_text(json.dumps({**content, "n_codebooks": 4}))
    assert re.search(
        r"model\.safetensors lacks \d+ weights of a dac, the first is quantizer", refusal(model=str(folder))
    )
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(model=str(folder))
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"\x80\x04")
    assert "model.safetensors cannot be read" in refusal(model=str(folder))


def test_a_model_of_the_hub_is_fetched_once_and_found_without_a_connection(
    hub: FakeHub, stored: Callable[..., tuple[str, Any]]
) -> None:
    folder, _ = stored("dac")
    names = ("config.json", "model.safetensors")
    files = {name: (Path(folder) / name).read_bytes() for name in names}
    commit = hub.add("me/dac", {**files, "pytorch_model.bin": b"evil", "modeling.py": b"raise SystemExit"})
    x = sensor(200)
    with torch.inference_mode():
        wanted = Codec(model=folder).eval()(x)
        assert torch.equal(Codec(model="hf:me/dac").eval()(x), wanted)
        assert not [request for request in hub.requests if "evil" in request or ".bin" in request or ".py" in request]
        hub.broken = 503
        assert torch.equal(Codec(model=f"hf:me/dac@{commit}").eval()(x), wanted)
    message = refusal(model="hf:me/other")
    assert "model=hf:me/other: me/other cannot be fetched from the Hugging Face hub" in message
    assert "an earlier download is not in the cache" in message
    assert "generator.model=FOLDER" in message


def test_without_the_package_a_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal(family="dac") == "Codec needs the package transformers: run pip install 'bcfusion[codec]'"


def test_the_entry_names_a_model_or_asks_for_one(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("generator=codec")
    assert OmegaConf.is_missing(cfg.generator, "model")
    assert any(problem.startswith("generator.model") for problem in verify(cfg))
    assert composed("generator=codec", "generator.config={pad_mode:constant}").generator.config.pad_mode == "constant"
