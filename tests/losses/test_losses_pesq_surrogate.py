from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pesq import pesq
from scipy.signal import butter, sosfiltfilt
from surrogate_items import check_items_count_alone
from torch import Tensor

from bcfusion.errors import ConfigError
from bcfusion.losses.pesq_surrogate import PesqSurrogateLoss

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("torch_pesq") is None, reason="torch_pesq is not installed: pip install 'bcfusion[pesq]'"
)
T = 16000
SNRS = (-5, 0, 5, 10, 15, 20, 30, 40)  # dB
CUTOFFS = (1000, 2000, 3000, 4000, 6000)  # Hz


def white(seed: int, level: float, items: int = 1, samples: int = T) -> Tensor:
    return level * torch.randn(items, 1, samples, generator=torch.Generator().manual_seed(seed))


def full(signal: Tensor) -> Tensor:
    return torch.full((signal.shape[0],), signal.shape[-1])


def noisy(target: np.ndarray, snr: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(target.size)
    return target + noise * np.sqrt(np.mean(target**2) / 10 ** (snr / 10))


def low_pass(target: np.ndarray, cutoff: float) -> np.ndarray:
    return sosfiltfilt(butter(4, cutoff, fs=16000, output="sos"), target)


def value_of(loss: PesqSurrogateLoss, estimate: np.ndarray, target: np.ndarray) -> float:
    signals = [torch.from_numpy(np.ascontiguousarray(x)).float()[None, None] for x in (estimate, target)]
    return loss(*signals, full(signals[0])).item()


def scores(target: np.ndarray) -> tuple[list[float], list[float]]:
    """The negative loss and PESQ-WB of a set of degradations."""
    loss = PesqSurrogateLoss(value="mos")
    degraded = [noisy(target, snr) for snr in SNRS]
    degraded += [low_pass(target, cutoff) for cutoff in CUTOFFS]
    degraded += [noisy(low_pass(target, 2000), snr) for snr in (15, 30)]
    degraded += [0.1 * target, target.clip(-0.05, 0.05)]
    return [-value_of(loss, x, target) for x in degraded], [pesq(16000, target, x, "wb") for x in degraded]


@pytest.fixture(scope="module")
def sentences(speech: Path) -> list[np.ndarray]:
    files = sorted(speech.glob("train/**/*.flac"))
    return [soundfile.read(files[i], dtype="float64")[0] for i in (0, -1)]  # of two speakers


@needs_library
@pytest.mark.parametrize("sentence", [0, 1])
def test_mos_is_close_to_pesq_of_degraded_synthetic_speech(sentences: list[np.ndarray], sentence: int) -> None:
    ours, reference = scores(sentences[sentence])
    assert np.corrcoef(ours, reference)[0, 1] > 0.99
    assert np.abs(np.subtract(ours, reference)).max() < 0.5


@needs_library
@pytest.mark.corpora
@pytest.mark.slow
def test_mos_is_close_to_pesq_of_degraded_real_speech(corpora: Path) -> None:
    files = sorted((corpora / "librispeech_clips/valid").glob("*/*.flac"))[:3]
    for file in files:
        target = soundfile.read(file, frames=6 * 16000, dtype="float64")[0]
        ours, reference = scores(target)
        assert np.corrcoef(ours, reference)[0, 1] > 0.998
        assert np.abs(np.subtract(ours, reference)).max() < 0.3


@needs_library
@pytest.mark.parametrize("value", ["disturbance", "mos"])
def test_falls_with_the_snr_and_with_the_bandwidth(sentences: list[np.ndarray], value: str) -> None:
    loss = PesqSurrogateLoss(value=value)  # type: ignore[arg-type]
    target = sentences[0]
    by_snr = [value_of(loss, noisy(target, snr), target) for snr in SNRS]
    by_cutoff = [value_of(loss, low_pass(target, cutoff), target) for cutoff in CUTOFFS]
    perfect = value_of(loss, target, target)
    assert by_snr == sorted(by_snr, reverse=True)
    assert by_cutoff == sorted(by_cutoff, reverse=True)
    assert perfect < min(by_snr[-1], by_cutoff[-1])
    assert perfect == pytest.approx(0.0 if value == "disturbance" else -4.644, abs=1e-3)


@needs_library
def test_the_two_values_are_one_curve(sentences: list[np.ndarray]) -> None:
    """P.862.2: 0.999 + 4 / (1 + exp(-1.3669 P + 3.8224)), P the score of P.862."""
    target = sentences[0]
    for snr in (0, 15, 30):
        score = 4.5 - value_of(PesqSurrogateLoss(), noisy(target, snr), target)
        mos = 0.999 + 4 / (1 + np.exp(-1.3669 * score + 3.8224))
        assert value_of(PesqSurrogateLoss(value="mos"), noisy(target, snr), target) == pytest.approx(-mos, abs=1e-4)


def test_equals_the_package_up_to_the_filters_before_the_model(sentences: list[np.ndarray]) -> None:
    target = sentences[0]
    package = pytest.importorskip("torch_pesq").PesqLoss(1.0, sample_rate=16000)
    for degraded in (noisy(target, 0), noisy(target, 20), low_pass(target, 2000)):
        signals = [torch.from_numpy(np.ascontiguousarray(x)).float()[None] for x in (target, degraded)]
        assert value_of(PesqSurrogateLoss(), degraded, target) == pytest.approx(package(*signals).item(), rel=0.02)


@needs_library
def test_level_does_not_count() -> None:
    target = white(1, 0.1)
    estimate = target + white(2, 0.03)
    loss = PesqSurrogateLoss()
    expected = loss(estimate, target, full(target)).item()
    for gain in (0.1, 10.0):
        assert loss(gain * estimate, gain * target, full(target)).item() == pytest.approx(expected, rel=1e-3)
        assert loss(gain * estimate, target, full(target)).item() == pytest.approx(expected, rel=1e-2)


@needs_library
@pytest.mark.parametrize("rate", [22050, 48000])
def test_the_band_above_8_khz_does_not_count(rate: int) -> None:
    time = torch.arange(rate) / rate
    target = white(1, 0.1, samples=rate)
    tone = 0.1 * torch.sin(2 * torch.pi * 9000 * time)
    loss = PesqSurrogateLoss(rate)
    assert loss(target + tone, target, full(target)).item() < 0.01
    tone = 0.1 * torch.sin(2 * torch.pi * 3000 * time)
    assert loss(target + tone, target, full(target)).item() > 0.3


@needs_library
@pytest.mark.parametrize("value", ["disturbance", "mos"])
@pytest.mark.parametrize("samples", [0, 1, 511, 5375])
def test_items_of_less_than_20_frames_have_no_pesq(samples: int, value: str) -> None:
    target = white(1, 0.1).repeat(2, 1, 1)
    estimate = (target + white(2, 0.05)).requires_grad_()
    measure = PesqSurrogateLoss(value=value)  # type: ignore[arg-type]
    loss = measure(estimate, target, torch.tensor([T, samples]))
    loss.backward()
    torch.testing.assert_close(loss, measure(estimate[:1], target[:1], torch.tensor([T])) / 2)
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad[1]) == 0
    assert torch.count_nonzero(estimate.grad[0]) > 0


@needs_library
def test_the_shortest_item_with_a_pesq_has_20_frames() -> None:
    target = white(1, 0.1)
    loss = PesqSurrogateLoss()
    assert loss(target + white(2, 0.1), target, torch.tensor([5376])).item() > 0.5
    assert loss(target + white(2, 0.1), target, torch.tensor([5375])).item() == 0.0


@needs_library
@pytest.mark.parametrize("target_level", [0.0, 1e-7, 1e-4, 0.1])
@pytest.mark.parametrize("estimate_level", [0.0, 1e-7, 1e-4, 0.1])
def test_is_finite_on_silence(target_level: float, estimate_level: float) -> None:
    target, estimate = white(1, target_level), white(2, estimate_level).requires_grad_()
    loss = PesqSurrogateLoss()(estimate, target, full(target))
    loss.backward()
    assert 0.0 <= loss.item() < 10.0
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    if target_level < 5e-3:  # below -45 dBFS
        assert loss.item() == 0.0
        assert torch.count_nonzero(estimate.grad) == 0


@needs_library
@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_is_finite_if_half_of_an_item_is_silence(silent: str, level: float) -> None:
    speaking = torch.ones(1, 1, T)
    speaking[..., T // 2 :] = level
    target = white(1, 0.1) * (speaking if silent != "estimate" else 1.0)
    estimate = (target + 0.3 * white(2, 0.1)) * (speaking if silent != "target" else 1.0)
    estimate.requires_grad_()
    loss = PesqSurrogateLoss()(estimate, target, full(target))
    loss.backward()
    assert loss.item() > 0.1
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()
    assert torch.count_nonzero(estimate.grad) > 0


@needs_library
@pytest.mark.parametrize("other", ["noise", "square", "constant", "silence"])
def test_is_finite_on_full_scale_square_waves(other: str) -> None:
    square = torch.sign(torch.sin(2 * torch.pi * 200.5 * torch.arange(T) / 16000))[None, None]
    signals = {
        "noise": white(1, 0.1),
        "square": square.clone(),
        "constant": torch.ones(1, 1, T),
        "silence": torch.zeros(1, 1, T),
    }
    loss = PesqSurrogateLoss()
    for estimate, target in ((square, signals[other]), (signals[other], square)):
        estimate = estimate.clone().requires_grad_()
        value = loss(estimate, target, full(target))
        value.backward()
        assert 0.0 <= value.item() < 10.0
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()


@needs_library
def test_the_gradient_of_a_faint_estimate_is_bounded() -> None:
    """Without bound it would be inversely proportional to the level of the estimate, which does not count."""
    target, loss = white(1, 0.1), PesqSurrogateLoss()

    def slope(level: float) -> float:
        estimate = (level * (target + white(2, 0.05))).requires_grad_()
        loss(estimate, target, full(target)).backward()
        assert estimate.grad is not None
        return estimate.grad.norm().item()

    assert slope(1e-2) == pytest.approx(100 * slope(1.0), rel=0.1)
    assert max(slope(level) for level in (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)) < 1000 * slope(1.0)


@needs_library
def test_a_silent_target_next_to_an_audible_one_of_equal_length_counts_as_0() -> None:
    target = torch.cat([white(1, 0.1), white(2, 5e-4)])  # -66 dBFS
    estimate = (target + white(3, 1e-4, items=2)).requires_grad_()
    loss = PesqSurrogateLoss(silence_db=-60.0)
    value = loss(estimate, target, full(target))
    value.backward()
    torch.testing.assert_close(value, loss(estimate[:1], target[:1], full(target)[:1]) / 2)
    assert estimate.grad is not None
    assert torch.count_nonzero(estimate.grad[1]) == 0
    assert PesqSurrogateLoss(silence_db=-70.0)(estimate, target, full(target)) > 2 * value


@needs_library
def test_by_default_the_noise_of_a_pause_is_not_judged_as_if_it_were_speech() -> None:
    pause, speech = white(1, 10 ** (-50 / 20)), white(2, 10 ** (-30 / 20))
    error = white(3, 10 ** (-55 / 20))
    assert PesqSurrogateLoss()(pause + error, pause, full(pause)).item() == 0.0
    assert PesqSurrogateLoss()(speech + error, speech, full(speech)).item() > 0.0
    assert PesqSurrogateLoss(silence_db=-60.0)(pause + error, pause, full(pause)).item() > 0.5


@needs_library
def test_the_loss_of_an_item_is_the_same_alone_or_padded_whatever_the_padding_holds() -> None:
    lengths = torch.tensor([T, 12000, 9001, 12000])
    target, estimate = white(1, 0.1, items=4), white(2, 0.1, items=4)
    target = target * torch.tensor([1.0, 0.01, 0.1, 10.0])[:, None, None]
    estimate = target + torch.tensor([0.3, 0.01, 0.1, 1.0])[:, None, None] * estimate
    check_items_count_alone(PesqSurrogateLoss(silence_db=-70.0), estimate, target, lengths, digits=3)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_float32_under_autocast(dtype: torch.dtype) -> None:
    target = white(1, 0.1)
    estimate = (target + white(2, 0.05)).to(dtype)
    loss = PesqSurrogateLoss()
    with torch.autocast("cpu", dtype=torch.bfloat16 if dtype == torch.float32 else dtype):
        result = loss(estimate, target, full(target))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(estimate.float(), target, full(target)))


@needs_library
@pytest.mark.parametrize("value", ["disturbance", "mos"])
def test_gradient_steps_raise_pesq(sentences: list[np.ndarray], value: str) -> None:
    clip = sentences[0][:24000]
    target = torch.from_numpy(clip).float()[None, None]
    estimate = torch.from_numpy(noisy(clip, 20)).float()[None, None].requires_grad_()
    loss = PesqSurrogateLoss(value=value)  # type: ignore[arg-type]
    before = pesq(16000, target[0, 0].numpy(), estimate.detach()[0, 0].numpy(), "wb")
    optimizer = torch.optim.Adam([estimate], lr=2e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss(estimate, target, full(target)).backward()
        optimizer.step()
    after = pesq(16000, target[0, 0].numpy(), estimate.detach()[0, 0].numpy(), "wb")
    assert after > before + 0.4


@needs_library
def test_the_mos_of_a_bad_estimate_has_little_gradient(sentences: list[np.ndarray]) -> None:
    target = torch.from_numpy(sentences[0]).float()[None, None]

    def slope(value: str, snr: float) -> float:
        estimate = torch.from_numpy(noisy(sentences[0], snr)).float()[None, None].requires_grad_()
        PesqSurrogateLoss(value=value)(estimate, target, full(target)).backward()  # type: ignore[arg-type]
        assert estimate.grad is not None
        return estimate.grad.norm().item()

    assert slope("mos", 0) < 0.1 * slope("disturbance", 0)
    assert slope("mos", 30) > slope("disturbance", 30)


@needs_library
def test_holds_no_parameters_and_nothing_that_a_checkpoint_would_store() -> None:
    loss = PesqSurrogateLoss()
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}
    assert all(buffer.device.type == "meta" for buffer in loss.to("meta").buffers())  # they move with the loss


@needs_library
def test_copies_compute_the_same() -> None:
    target, loss = white(1, 0.1), PesqSurrogateLoss()
    estimate = target + white(2, 0.05)
    expected = loss(estimate, target, full(target))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        loss.model.pre_filter.zero_()  # a copy that refers to the original's tables would be silent now
        torch.testing.assert_close(other(estimate, target, full(target)), expected)
        loss = other


@needs_library
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sample_rate": 8000}, "sample_rate=8000 must be at least 16000"),
        ({"sample_rate": 16000.5}, "sample_rate=16000.5 must be a whole number"),
        ({"sample_rate": 44101}, "sample_rate=44101 must have a ratio of small numbers to 16000"),
        ({"value": "pesq"}, "value='pesq' must be one of disturbance, mos"),
        ({"silence_db": 60.0}, "silence_db=60.0 must be from -300 to 0"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PesqSurrogateLoss(**arguments)  # type: ignore[arg-type]
    assert refused.value.problems == [f"PesqSurrogateLoss: {says}"]


def test_without_the_library_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pesq", None)
    with pytest.raises(ConfigError, match=r"pip install 'bcfusion\[pesq\]'"):
        PesqSurrogateLoss()
