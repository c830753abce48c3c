from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.generators.hifigan import HifiGan
from bcfusion.generators.voicefixer import VoiceFixer, VoiceFixerMel
from bcfusion.run.bundle import load_generator, save_bundle

BANDS = {"n_fft": 256, "win_length": 256, "n_mels": 20, "floor": 1e-5}
MEL: dict[str, Any] = {**BANDS, "hop_length": 64, "channels": [2, 4], "blocks": 1}
VOCODER: dict[str, Any] = {**BANDS, "channels": 8, "rates": [8, 8], "sensor": -1}
VOCODER |= {"kernel_sizes": [16, 16], "residual_kernel_sizes": [3], "dilations": [[1, 3]]}
TARGET = "bcfusion.generators.voicefixer."
VOCODER_TARGET = "bcfusion.generators.hifigan.HifiGan"


def stages(seed: int = 0) -> tuple[VoiceFixerMel, HifiGan]:
    torch.manual_seed(seed)
    mel, vocoder = VoiceFixerMel(**MEL), HifiGan(**VOCODER)
    mel(speech())  # in training mode, which updates the running statistics
    return mel.eval(), vocoder.eval()


def speech(samples: int = 2000, batch: int = 2) -> torch.Tensor:
    return 0.07 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(3))


def config(**sources: str) -> dict[str, Any]:
    nested = {"mel": {"_target_": f"{TARGET}VoiceFixerMel", **MEL}}
    nested |= {"vocoder": {"_target_": VOCODER_TARGET, **VOCODER}}
    return {"_target_": f"{TARGET}VoiceFixer", **nested, **sources}


def store(folder: Path, seed: int = 0) -> tuple[str, str]:
    """Save a bundle of each stage, the first inside a run directory."""
    mel, vocoder = stages(seed)
    paths = folder / "mel_run" / "bundle", folder / "vocoder"
    save_bundle(paths[0], mel, {"_target_": f"{TARGET}VoiceFixerMel", **MEL}, ["body"], {})
    save_bundle(paths[1], vocoder, {"_target_": VOCODER_TARGET, **VOCODER}, ["air"], {})
    return str(paths[0].parent), str(paths[1])


@pytest.mark.slow
def test_numbers_of_parameters_of_the_published_analysis_module_and_of_both_stages() -> None:
    with torch.device("meta"):
        mel, vocoder = VoiceFixerMel(), HifiGan(n_mels=128, sensor=-1)
        published = VoiceFixerMel(44100, 1, 2048, 441, 1764)  # a window of 2048 is not a multiple of two hops
    assert sum(p.numel() for p in mel.parameters()) == pytest.approx(65.15e6, rel=1e-4)
    assert sum(p.numel() for p in published.parameters()) == pytest.approx(65.15e6, rel=1e-4)
    # HiFi-GAN V1 has 13.94 M with 80 mels; here the first convolution has 48 inputs more
    assert sum(p.numel() for p in vocoder.parameters()) == pytest.approx(13.94e6 + 48 * 512 * 7, rel=1e-3)


def test_without_a_residual_stage_one_provides_the_log_mel_of_the_corrected_sensor() -> None:
    torch.manual_seed(0)
    network = VoiceFixerMel(**MEL, in_channels=2, skip_channel=0).eval()
    torch.nn.init.zeros_(network.unet.last.weight)
    inputs = 0.07 * torch.randn(1, 2, 2000)
    with torch.inference_mode():
        given = network(inputs)["log_mel"]
        padded = torch.nn.functional.pad(inputs[:, :1], (0, 3 * 64 - 2000 % 64 + 64))
        wanted = network.log_mel(padded)[..., network.stft.centred :][..., : 2000 // 64 + 1]
    torch.testing.assert_close(given, wanted)


def test_the_residual_is_added_to_the_logarithm() -> None:
    mel, _ = stages()
    torch.nn.init.zeros_(mel.unet.last.weight)
    with torch.inference_mode():
        before = mel(speech())
        assert mel.unet.last.bias is not None
        mel.unet.last.bias.fill_(0.7)
        after = mel(speech())
    torch.testing.assert_close(after["log_mel"][:, :-1], before["log_mel"][:, :-1] + 0.7)
    torch.testing.assert_close(after["log_mel"][:, -1], before["log_mel"][:, -1])  # the network leaves it out
    # and below that band, which begins at 6 kHz, the estimate is louder by as much: 6.1 dB
    quiet, loud = (torch.fft.rfft(output["estimate"])[..., :740].norm() for output in (before, after))
    torch.testing.assert_close(loud / quiet, torch.tensor(0.7).exp(), rtol=0.01, atol=0)


def test_the_estimate_of_an_intact_mel_is_close_to_the_input() -> None:
    """With narrow bands and no correction magnitudes are about right, and phases are those of the input."""
    torch.manual_seed(0)
    network = VoiceFixerMel(16000, 1, 512, 64, 256, 40, channels=(2, 4), blocks=1).eval()
    torch.nn.init.zeros_(network.unet.last.weight)
    tone = 0.1 * torch.sin(2 * torch.pi * 1000 / 16000 * torch.arange(4000.0)).view(1, 1, -1)
    with torch.inference_mode():
        estimate = network(tone)["estimate"]
    inner = slice(500, 3500)
    assert torch.nn.functional.cosine_similarity(estimate[..., inner], tone[..., inner], dim=-1).item() > 0.9


def test_at_its_published_depth_it_is_finite_before_the_first_step_and_settled_after_it() -> None:
    """Untrained, in evaluation mode, the levels of 53 residual blocks multiply: exp would overflow."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_fft": 512, "hop_length": 128, "win_length": 512, "n_mels": 65, "channels": (4,) * 6}
    network, corrections = VoiceFixerMel(**sizes, init_output_scale=3.0), []
    network.unet.register_forward_hook(lambda _module, _inputs, output: corrections.append(output.detach().std()))
    inputs = speech(8000).requires_grad_()
    output = network.eval()(inputs)
    assert corrections[-1] > 100, "this network would not overflow"
    output["estimate"].square().mean().backward()
    gradients = [inputs.grad, *(p.grad for p in network.parameters())]
    assert all(value.isfinite().all() for value in output.values())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    network.train()(inputs)
    network.eval()(inputs)
    torch.testing.assert_close(corrections[-1], corrections[-2], rtol=0.2, atol=0)  # as in training, at once


def test_without_a_correction_the_joined_network_is_its_vocoder() -> None:
    mel, vocoder = stages()
    torch.nn.init.zeros_(mel.unet.last.weight)
    joined = VoiceFixer(mel, vocoder).eval()
    clean = speech(9 * joined.hop - joined.lookahead)  # padded alike by both
    with torch.inference_mode():
        torch.testing.assert_close(joined(clean)["estimate"], vocoder(clean))


def test_the_joined_network_is_stage_two_applied_to_stage_one() -> None:
    mel, vocoder = stages()
    joined = VoiceFixer(mel, vocoder).eval()
    inputs = speech(9 * joined.hop - mel.lookahead)  # stage one alone pads to the same number of frames
    frames: list[torch.Tensor] = []
    hook = mel.unet.register_forward_hook(lambda *call: frames.append(call[2]))
    with torch.inference_mode():
        output, alone = joined(inputs), mel(inputs)
    hook.remove()
    torch.testing.assert_close(frames[0], frames[1])
    torch.testing.assert_close(output["log_mel"], alone["log_mel"])
    assert not torch.allclose(output["estimate"], vocoder(inputs))
    with torch.inference_mode():
        late = vocoder.synthesise(alone["log_mel"])  # its first frame is number `centred` of the joined network's
    inner = slice(1000, 1400)
    shift = vocoder.lookahead - mel.stft.centred * vocoder.hop
    torch.testing.assert_close(late[..., shift:][..., inner], output["estimate"][..., inner])


@pytest.mark.slow
def test_weights_come_from_the_runs_and_the_joined_bundle_needs_neither(tmp_path: Path) -> None:
    """Weight norm is folded in the bundles but not in the network that loads them."""
    mel_from, vocoder_from = store(tmp_path / "runs")
    expected = VoiceFixer(*stages()).eval()
    torch.manual_seed(9)
    fresh = (VoiceFixerMel(**MEL), HifiGan(**VOCODER))
    joined = VoiceFixer(*fresh, mel_from=mel_from, vocoder_from=vocoder_from).eval()
    with torch.inference_mode():
        wanted = expected(speech())["estimate"]
        torch.testing.assert_close(joined(speech())["estimate"], wanted)
    save_bundle(tmp_path / "joined", joined, config(mel_from=mel_from, vocoder_from=vocoder_from), ["body"], {})
    with torch.inference_mode():
        runs = tmp_path / "runs"
        shutil.rmtree(runs)
        torch.testing.assert_close(load_generator(tmp_path / "joined")(speech())["estimate"], wanted)
        store(runs, seed=5)  # in the same place, with other weights
        torch.testing.assert_close(load_generator(tmp_path / "joined")(speech())["estimate"], wanted)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"floor": 1e-4}, "floor is 1e-05, not 0.0001"),
        ({"channels": [2, 2]}, "does not fit VoiceFixerMel"),
        (None, "is neither a bundle"),
    ],
)
def test_a_source_that_does_not_fit_is_reported_when_the_network_is_used(
    tmp_path: Path, change: dict[str, Any] | None, text: str
) -> None:
    mel_from, _ = store(tmp_path) if change else (str(tmp_path / "nowhere"), "")
    common = {"floor": change["floor"]} if change and "floor" in change else {}
    mel = VoiceFixerMel(**{**MEL, **(change or {})})
    untouched = {name: tensor.clone() for name, tensor in mel.state_dict().items()}
    joined = VoiceFixer(mel, HifiGan(**{**VOCODER, **common}), mel_from=mel_from)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in mel.state_dict().items())
    with pytest.raises(CheckpointError, match=f"mel_from=.*{text}"):
        joined(speech())
    joined.load_state_dict(joined.state_dict())
    joined(speech())


def test_a_vocoder_of_the_published_mel_is_no_second_stage(tmp_path: Path) -> None:
    """Its log mel spectrogram is another one: it would give noise."""
    with pytest.raises(ConfigError, match=r"vocoder\.published_mel=true"):
        VoiceFixer(VoiceFixerMel(**MEL), HifiGan(**VOCODER, published_mel=True))
    node = {"_target_": "bcfusion.generators.hifigan.HifiGan", **VOCODER, "published_mel": True}
    bundle = save_bundle(tmp_path / "published", HifiGan(**VOCODER, published_mel=True), node, ["body"], {})
    joined = VoiceFixer(VoiceFixerMel(**MEL), HifiGan(**VOCODER), vocoder_from=str(bundle))
    with pytest.raises(CheckpointError, match="published_mel is True, not False"):
        joined(speech())


def test_stages_with_different_mel_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"floor is 1e-05 in mel and 0\.001 in vocoder"):
        VoiceFixer(VoiceFixerMel(**MEL), HifiGan(**{**VOCODER, "floor": 1e-3}))
