"""Every entry of conf/generator restores long files in chunks and short ones in batches, as it does one alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import test_generators_contract
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_generators_contract import FILES, build, composed, speech_like
from torch import Tensor, nn

from bcfusion.contracts import Generator
from bcfusion.inference import chunks
from bcfusion.inference.batches import compute_batch, padded_length
from bcfusion.inference.chunks import enhanced_chunks, how_joined
from bcfusion.inference.computing import computed
from bcfusion.nn.streaming import StreamingModule
from bcfusion.probe import receptive_field

CHUNK = 0.2  # seconds
DOCUMENTED = Path(__file__).parents[2] / "docs" / "enhance.md"
SMALLEST_SNR = 25  # dB, of cross-faded chunks of networks that need the whole file, untrained


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def entry(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def single(entry: Path) -> Iterator[nn.Module]:
    network = build(entry, ["body"])
    field = receptive_field(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "receptive_field", lambda _: field)  # measured once
        yield network


def longest_input(network: nn.Module, chunk_seconds: float) -> float:
    """The most samples that may be computed at once, of a file of any length."""
    spec = cast("Generator", network)
    chunk = chunk_seconds * spec.sample_rate
    around = {
        "exact": sum(chunks._receptive_field(network) or ()),
        "streamed": (spec.delay or 0) + 1,  # pushed out at the end
        "cross-faded": 2.25 * spec.sample_rate,  # a second on either side, and the fade
    }
    return chunk + around[how_joined(network, 10**9, chunk_seconds)] + 4 * spec.hop  # whole frames


def snr(reference: Tensor, estimate: Tensor) -> float:
    error = (reference - estimate).square().sum()
    return float("inf") if error == 0 else float(10 * torch.log10(reference.square().sum() / error))


@pytest.mark.slow
def test_a_batch_of_short_files_gives_what_each_gives_alone(single: nn.Module) -> None:
    x = speech_like(single, 3000)[0]
    alike: dict[int, list[Tensor]] = {}
    for signal in (x, x[:, :-1], x[:, :-2], x[:, :-700], -x):
        alike.setdefault(padded_length(single, signal.shape[1]), []).append(signal)
    batches = [signals for signals in alike.values() if len(signals) > 1]
    assert batches
    for signals in batches:
        for output, signal in zip(compute_batch(single, signals), signals, strict=True):
            alone = computed(single, signal[None])[0]
            torch.testing.assert_close(output, alone, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_a_long_file_takes_no_more_memory_and_gives_what_one_pass_gives(single: nn.Module) -> None:
    joined = how_joined(single, 16000, CHUNK)
    x = speech_like(single, 48000 if joined == "cross-faded" else 12000)[0]
    lengths: list[int] = []
    hook = single.register_forward_hook(lambda _, inputs, output: lengths.append(inputs[0].shape[-1]))
    output = torch.cat(list(enhanced_chunks(single, lambda start, stop: x[:, start:stop], x.shape[1], CHUNK)), dim=1)
    hook.remove()
    whole = computed(single, x[None])[0]
    assert max(lengths) <= longest_input(single, CHUNK)
    if joined == "cross-faded":
        assert snr(whole, output) > SMALLEST_SNR
    else:
        torch.testing.assert_close(output, whole, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_what_is_computed_at_once_and_what_is_kept_do_not_grow_with_the_file(
    single: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def silence(network: nn.Module, inputs: Tensor, precision: str) -> Tensor:
        lengths.append(inputs.shape[2])
        return torch.zeros(1, 1, 1).expand(1, 1, inputs.shape[2])

    longest = []
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "computed", silence)  # of the length alone
        for minutes in (2, 10):
            lengths.clear()
            total = minutes * 60 * cast("Generator", single).sample_rate
            blocks = enhanced_chunks(single, lambda a, b: torch.zeros(1, 1).expand(1, b - a), total, 10)
            assert sum(block.shape[1] for block in blocks) == total
            longest.append(max(lengths))
    assert longest[0] == longest[1] <= longest_input(single, 10)
    if how_joined(single, 10**9, CHUNK) != "streamed":
        return
    assert isinstance(single, StreamingModule)
    hop, kept = cast("Generator", single).hop, []
    block = speech_like(single, 3200 // hop * hop)
    with torch.inference_mode(), single.streaming(1):
        for _ in range(8):
            single(block)
            kept.append(sum(tensor.numel() for tensor in single.get_state().values()))
    assert kept[0] == kept[-1]


@pytest.mark.slow
def test_the_documentation_says_how_a_long_file_is_joined(entry: Path, single: nn.Module) -> None:
    table = DOCUMENTED.read_text().split("## Long recordings")[1].split("## ")[0]
    rows = dict(re.findall(r"^\| `(exact|streamed|cross-faded)` \|(.*)$", table, re.MULTILINE))
    joined = how_joined(single, 10**9, CHUNK)
    if joined == "exact" and own_delay(entry) > 3 * 16000:  # of which the network at its small size has a part
        joined = "cross-faded"
    assert [kind for kind, row in rows.items() if f"`{entry.stem}`" in row] == [joined]


def own_delay(entry: Path) -> int:
    """The delay of a network at its own size, without its weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_generators_contract, "SMALL", Path("none"))
        cfg = composed.__wrapped__(entry.stem, 1).generator
    for name in cfg:
        if OmegaConf.is_missing(cfg, name):  # a run to start from
            cfg[name] = None
    with torch.device("meta"):
        delay: int = instantiate(cfg).delay
    return delay
