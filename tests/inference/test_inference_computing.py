from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from bcfusion.doctor.computing import precision
from bcfusion.doctor.finding import OK
from bcfusion.errors import BcfusionError
from bcfusion.generators.dpcrn import DPCRN
from bcfusion.generators.seanet import SEANet
from bcfusion.inference.batches import batches_of
from bcfusion.inference.computing import check_precision, computed
from bcfusion.inference.enhance import enhance_file, enhance_signal

TINY: dict[str, Any] = {"channels": 4, "strides": (2, 4), "dilations": (1, 3), "bottleneck_channels": 8}


def network() -> SEANet:
    torch.manual_seed(0)
    return SEANet(**TINY, init_output_scale=1.0).eval()


def snr(reference: torch.Tensor, estimate: torch.Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


def test_mixed_precision_is_close_and_comes_out_in_single_precision() -> None:
    if next(precision()).status != OK:
        pytest.skip("this CPU computes convolutions in bfloat16 wrongly")
    x, model = 0.1 * torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(0)), network()
    full, mixed = computed(model, x), computed(model, x, "bf16")
    assert mixed.dtype == torch.float32
    assert 20 < snr(full, mixed) < 70  # bfloat16 was used


def test_a_precision_that_the_device_lacks_is_refused(tmp_path: Path) -> None:
    check_precision("fp32", "cpu")
    with pytest.raises(BcfusionError, match="--precision bf16: the device 'cpu' does not gain"):
        check_precision("bf16", "cpu")
    with pytest.raises(BcfusionError, match="precision fp8: give fp32 or bf16"):
        check_precision("fp8", "cpu")
    soundfile.write(tmp_path / "a.wav", torch.zeros(100).numpy(), 16000)
    with pytest.raises(BcfusionError, match="bf16"):
        enhance_file(network(), tmp_path / "a.wav", tmp_path / "b.wav", precision="bf16")


def test_short_recordings_of_like_length_meet_in_a_batch(tmp_path: Path) -> None:
    lengths = [800, 801, 5000, 1000, 799, 900, 803, 20_000, 800]
    files = []
    for number, samples in enumerate(lengths):
        files.append((tmp_path / f"{number}.wav",))
        soundfile.write(files[-1][0], torch.zeros(samples).numpy(), 16000)
    files.append((tmp_path / "missing.wav",))
    causal = SEANet(**TINY, causal=True)
    assert batches_of(causal, files, 3, 1.0) == [[0, 4, 8], [1, 5, 6], [2], [3], [7], [9]]
    assert batches_of(network(), files, 8, 1.0) == [[0, 4, 8], [1, 6], [2], [3], [5], [7], [9]]
    assert batches_of(network(), files, 1, 1.0) == [[position] for position in range(10)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_files_are_restored_on_a_gpu_as_on_a_cpu(tmp_path: Path, precision: str) -> None:
    x, model = 0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0)), network()
    soundfile.write(tmp_path / "a.wav", x.numpy(), 16000, subtype="FLOAT")
    options: dict[str, Any] = {"chunk_seconds": 0.5, "subtype": "FLOAT"}
    enhance_file(model, tmp_path / "a.wav", tmp_path / "cpu.wav", **options)
    enhance_file(model.cuda(), tmp_path / "a.wav", tmp_path / "gpu.wav", precision=precision, **options)
    expected, got = (torch.from_numpy(soundfile.read(tmp_path / f"{name}.wav")[0]) for name in ("cpu", "gpu"))
    assert snr(expected, got) > (50 if precision == "fp32" else 20)


@pytest.mark.gpu
def test_a_long_signal_on_a_gpu_streams_there() -> None:
    torch.manual_seed(0)
    model = DPCRN(channels=(8, 8, 8, 8, 8), blocks=1).eval()
    x = 0.1 * torch.randn(1, 40_000)
    expected = enhance_signal(model, x, chunk_seconds=0.5)
    got = enhance_signal(model.cuda(), x.cuda(), chunk_seconds=0.5)
    assert got.device.type == "cuda"
    assert snr(expected, got.cpu()) > 50
