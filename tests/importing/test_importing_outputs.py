"""An imported network computes what the public program computes, to 1e-5 of its output, with random weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from public_formats import AP_BWE, ap_bwe_shapes, key_list, write_ap_bwe
from published import assert_published, fill, signal
from torch import Tensor, nn

from bcfusion.configuration.compose import build
from bcfusion.importing.bundle import Imported, import_model
from bcfusion.importing.files import Found
from bcfusion.importing.source import Choices, find_source
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import load_generator
from bcfusion.run.bundle_files import read_discriminators

Import = Callable[..., Imported]


@pytest.fixture(params=["synthetic", pytest.param("recorded", marks=pytest.mark.corpora)])
def utterance(request: pytest.FixtureRequest, speech: Path) -> Tensor:
    """Two seconds of speech, (1, 1, T); the rate does not matter to a network with random weights."""
    folder = request.getfixturevalue("corpora") / "librispeech_clips" if request.param == "recorded" else speech
    samples, _ = soundfile.read(sorted(folder.rglob("*.flac"))[0], dtype="float32", frames=32000)
    return torch.from_numpy(samples).view(1, 1, -1)


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    torch.manual_seed(0)

    def run(source: str, given: Path, **options: Any) -> Imported:
        return import_model(source, str(given), tmp_path / "bundle", overwrite=True, **options)

    return run


def output(imported: Imported, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        restored = load_generator(imported.folder)(inputs)
    estimate = restored["estimate"] if isinstance(restored, dict) else restored
    assert isinstance(estimate, Tensor)
    return estimate


def assert_same(own: Tensor, public: Tensor) -> None:
    assert own.shape == public.shape
    assert float(public.std()) > 1e-4, "the public network is silent: the comparison would mean nothing"
    assert float((own - public).abs().max()) <= 1e-5 * float(public.abs().max())


def trained(network: nn.Module) -> nn.Module:
    """The network with statistics, gains and slopes that are not those that it starts with."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1 and tensor.is_floating_point() and tensor.numel() > 1:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif tensor.shape == (1,) and tensor.is_floating_point():  # the slopes of PReLU
            tensor.add_(0.3 * torch.rand(1, generator=generator) - 0.15)
    return network.eval()


# ---------------------------------------------------------------- EBEN


@pytest.mark.slow
@pytest.mark.parametrize("bands", [1, 2, 4])
def test_eben_with_its_own_filters(bands: int, imported: Import, tmp_path: Path, utterance: Tensor) -> None:
    public = pytest.importorskip("vibravox.torch_modules.dnn.eben_generator").EBENGenerator(m=4, n=32, p=bands).eval()
    public.save_pretrained(tmp_path / "public")
    valid = public.cut_to_valid_length(utterance)
    with torch.inference_mode():
        expected, _ = public(valid)
    found = imported("eben", tmp_path / "public")
    assert found.generator["input_bands"] == bands
    assert_same(output(found, valid), expected)


@pytest.mark.slow
def test_eben_of_a_lightning_checkpoint_with_its_discriminators(
    imported: Import, tmp_path: Path, utterance: Tensor
) -> None:
    generators = pytest.importorskip("vibravox.torch_modules.dnn.eben_generator")
    discriminators = pytest.importorskip("vibravox.torch_modules.dnn.eben_discriminator")
    lightning_modules = pytest.importorskip("vibravox.lightning_modules.eben")
    from functools import partial

    from lightning import Trainer
    from torchmetrics import MetricCollection

    adam = partial(torch.optim.Adam, lr=1e-4)
    generator = generators.EBENGenerator(m=4, n=32, p=2)
    judges = discriminators.DiscriminatorEBENMultiScales(q=3, min_channels=30)
    module = lightning_modules.EBENLightningModule(16000, generator, judges, adam, adam, MetricCollection({}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    found = imported("eben", tmp_path / "last.ckpt")
    valid = generator.cut_to_valid_length(utterance)
    with torch.inference_mode():
        assert_same(output(found, valid), generator(valid)[0])
    sizes = {key: found.discriminators["pqmf_bands"][key] for key in ("q", "min_channels")}
    assert sizes == {"q": 3, "min_channels": 30}
    state = read_discriminators(found.folder)
    assert state is not None
    assert sum(tensor.numel() for tensor in state.values()) == 27_796_938 - sum(
        tensor.numel() for name, tensor in judges.state_dict().items() if name.endswith("original0")
    )
    own = build({**found.discriminators["pqmf_bands"], "norm": None})
    own.load_state_dict({name.removeprefix("pqmf_bands."): tensor for name, tensor in state.items()})
    with torch.inference_mode():
        bands = generator.pqmf.forward(valid, "analysis")
        public = judges(bands=bands, audio=valid)
        for judgement, layers in zip(own(valid, bands=bands), public, strict=True):
            assert_same(judgement.logits, layers[-1])


# ---------------------------------------------------------------- asteroid


SIZES = {"n_filters": 64, "bn_chan": 16, "hid_chan": 32, "skip_chan": 16, "n_blocks": 4, "n_repeats": 2}
CONV_TASNETS: dict[str, dict[str, Any]] = {
    "one source": {"n_src": 1},
    "relu, two sources": {"n_src": 2, "mask_act": "relu"},
    "softmax": {"n_src": 2, "mask_act": "softmax", "encoder_activation": "relu"},
    "no skip path": {"n_src": 1, "skip_chan": 0, "norm_type": "cLN"},
    "batch norm": {"n_src": 1, "norm_type": "bN"},
    "cumulative, 16 kHz": {"n_src": 1, "norm_type": "cgLN", "kernel_size": 32, "stride": 16, "sample_rate": 16000},
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", CONV_TASNETS.values(), ids=list(CONV_TASNETS))
def test_conv_tasnet(arguments: dict[str, Any], imported: Import, tmp_path: Path, utterance: Tensor) -> None:
    models = pytest.importorskip("asteroid.models")
    public = trained(models.ConvTasNet(**{**SIZES, **arguments}))
    torch.save(public.serialize(), tmp_path / "public.pth")
    whole = utterance[..., : utterance.shape[-1] // 32 * 32]  # asteroid drops samples that fill no segment
    with torch.inference_mode():
        expected = public(whole)
    for source in range(arguments["n_src"]):
        found = imported("conv_tasnet", tmp_path / "public.pth", source_index=source)
        assert load_generator(found.folder).bundle.sample_rate == arguments.get("sample_rate", 8000)
        assert_same(output(found, whole), expected[:, source : source + 1])


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "sources"), [("DCCRN-CL", 1), ("mini", 2)])
def test_dccrn(
    architecture: str,
    sources: int,
    imported: Import,
    tmp_path: Path,
    utterance: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = pytest.importorskip("asteroid.models")
    from asteroid.masknn import recurrent

    of_any_number = recurrent.DCCRMaskNetRNN
    # its size is a NumPy integer, which torch's LSTM no longer takes
    monkeypatch.setattr(recurrent, "DCCRMaskNetRNN", lambda size: of_any_number(int(size)))
    public = trained(models.DCCRNet(architecture, n_src=sources))
    torch.save(public.serialize(), tmp_path / "public.pth")
    whole = utterance[..., : utterance.shape[-1] // 100 * 100]
    with torch.inference_mode():
        expected = public(whole)
    found = imported("dccrn", tmp_path / "public.pth", source_index=sources - 1)
    assert_same(output(found, whole), expected[:, sources - 1 :])


# ---------------------------------------------------------------- HiFi-GAN+, HiFi-GAN, AP-BWE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exported", "checkpoint"])
def test_hifigan_plus(kind: str, imported: Import, tmp_path: Path, utterance: Tensor) -> None:
    public = pytest.importorskip("hifi_gan_bwe.models").BandwidthExtender().eval()
    if kind == "checkpoint":
        public.apply_weightnorm()
        torch.save({"gen_model": public.state_dict()}, tmp_path / "ckpt-1k.pt")
    else:
        public.save(str(tmp_path / "hifi-gan-bwe.pt"))
    with torch.inference_mode():
        expected = public(utterance, 48000)
    found = imported("hifigan_plus", next(tmp_path.glob("*.pt")))
    assert load_generator(found.folder).bundle.sample_rate == 48000
    assert_same(output(found, utterance), expected)


HIFIGAN: dict[str, Any] = {
    **{"resblock": "1", "upsample_rates": [8, 4], "upsample_kernel_sizes": [16, 8], "upsample_initial_channel": 32},
    **{"resblock_kernel_sizes": [3, 7], "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "num_mels": 80},
    **{"n_fft": 1024, "hop_size": 32, "win_size": 512, "sampling_rate": 22050, "fmin": 0, "fmax": 8000},
}


class Settings(dict[str, Any]):
    """Settings by attribute, as the public code reads them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def public_mel(waveform: Tensor, h: Settings) -> Tensor:
    """Log mel magnitudes, by their definition in the public code: mirrored ends, a power of 1e-9, a floor of 1e-5."""
    import librosa

    edge = (h.n_fft - h.hop_size) // 2
    mirrored = nn.functional.pad(waveform, (edge, edge), mode="reflect").squeeze(1)
    window = torch.hann_window(h.win_size)
    spectrum = torch.stft(mirrored, h.n_fft, h.hop_size, h.win_size, window, center=False, return_complex=True)
    filters = librosa.filters.mel(sr=h.sampling_rate, n_fft=h.n_fft, n_mels=h.num_mels, fmin=h.fmin, fmax=h.fmax)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return (torch.from_numpy(filters) @ magnitude).clamp_min(1e-5).log()


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_hifigan(folded: bool, imported: Import, tmp_path: Path, utterance: Tensor) -> None:
    pytest.importorskip("librosa")
    public = pytest.importorskip("hifi_gan.models").Generator(Settings(HIFIGAN)).eval()
    whole = utterance[..., : utterance.shape[-1] // 32 * 32]
    with torch.inference_mode():
        expected = public(public_mel(whole, Settings(HIFIGAN)))
    if folded:
        public.remove_weight_norm()
    torch.save({"generator": public.state_dict()}, tmp_path / "g_02500000")
    (tmp_path / "config.json").write_text(json.dumps(HIFIGAN))
    assert_same(output(imported("hifigan", tmp_path), whole), expected)


# Public code (AP-BWE) in float64 with the weights of `fill`, in the middle of the signal below. At its ends the
# mirrored frames are symmetric: phases are half turns whose sign is left to rounding.
PUBLISHED_AP_BWE = [
    8.6176825, -0.180022559, -0.379202843, 0.0523833084, 0.00201683596, 0.0622487504, -0.279831122, -0.0431931302,
    0.0563091555, -0.41529507, -0.201664168, -0.599709228, 0.320522134, -0.259008428, 0.123675147, -0.273820246,
    -0.549426603,
]  # fmt: skip


def test_ap_bwe(imported: Import, tmp_path: Path) -> None:
    state = {name: torch.empty(shape) for name, shape in ap_bwe_shapes(AP_BWE).items()}
    fill(state.values())
    # the lowest and the highest bin are real: positive, so that no phase is half a turn
    inputs = signal(1, 1, 2048, level=0.1) + 0.5 + 0.4 * (-1.0) ** torch.arange(2048)
    found = imported("ap_bwe", write_ap_bwe(tmp_path, state))
    assert_published(output(found, inputs.float())[..., 400:-400], PUBLISHED_AP_BWE, tolerance=5e-5)


# ---------------------------------------------------------------- lists of tensors


def loads(source: str, shapes: dict[str, list[int]], folder: Path, h: dict[str, Any]) -> nn.Module:
    """Load tensors of published shapes, all of one value, into the network that the configuration describes."""
    folder.mkdir(exist_ok=True)
    torch.save({"generator": {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}}, folder / "g_1")
    (folder / "config.json").write_text(json.dumps(h))
    converted = find_source(source).convert(Found(folder / "g_1", folder / "config.json"), Choices())
    arguments = {**converted.generator, "sample_rate": converted.sample_rate, "in_channels": 1}
    network = build_generator(arguments, folder)
    converted.weights.load(network)
    return network


@pytest.mark.slow
def test_all_tensors_of_the_published_hifigan_v1_have_a_place(tmp_path: Path) -> None:
    v1 = {
        **{"upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4], "upsample_initial_channel": 512},
        **{"resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "hop_size": 256},
        **{"win_size": 1024},
    }
    network = loads("hifigan", key_list("hifigan_v1"), tmp_path, {**HIFIGAN, **v1})
    assert sum(p.numel() for p in network.parameters()) == 13_926_017  # without the gains of weight normalisation


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "hop", "win"), [(16000, 80, 320), (48000, 80, 320)])
def test_all_tensors_of_the_published_ap_bwe_have_a_place(rate: int, hop: int, win: int, tmp_path: Path) -> None:
    sizes = {"n_fft": 1024, "hop_size": hop, "win_size": win, "ConvNeXt_channels": 512, "ConvNeXt_layers": 8}
    network = loads("ap_bwe", key_list("ap_bwe"), tmp_path, {**AP_BWE, **sizes, "hr_sampling_rate": rate})
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 29.76
