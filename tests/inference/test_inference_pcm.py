from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.errors import AudioError
from bcfusion.inference.pcm import RAW_FORMATS, Arriving, decoded, resampled_blocks

SUBTYPES = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}


def pieces(data: bytes, *sizes: int) -> Callable[[], bytes]:
    stream, turn = io.BytesIO(data), iter(sizes * 10_000)
    return lambda: stream.read(next(turn))


@pytest.mark.parametrize("name", RAW_FORMATS)
def test_samples_are_those_of_a_file_of_the_same_format(name: str) -> None:
    how, x = RAW_FORMATS[name], np.array([0, 0.5, -0.5, 1, -1, 1e-3, 0.123456], dtype=np.float32)
    data = how.encode(x)
    assert len(data) == how.size * len(x)
    read, _ = soundfile.read(
        io.BytesIO(data), samplerate=1, channels=1, subtype=SUBTYPES[name], format="RAW", dtype="float32"
    )
    np.testing.assert_array_equal(how.decode(data), read)
    np.testing.assert_allclose(read, x, atol=0 if how.is_float else 2.0 ** (1 - 8 * how.size))
    assert how.decode(how.encode(np.array([7, -7], dtype=np.float32))).tolist() == pytest.approx(
        [7, -7] if how.is_float else [1, -1], abs=1e-4
    )


@pytest.mark.parametrize("sizes", [(1,), (5, 2, 11), (1000,)])
def test_channels_are_picked_out_of_bytes_that_arrive_in_any_pieces(sizes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (3, 40)).astype(np.float32)
    how, remarks = RAW_FORMATS["s24le"], list[str]()
    data = how.encode(x.T.reshape(-1))
    blocks = list(decoded(pieces(data, *sizes), how, 3, [2, 0], "stdin", remarks.append))
    np.testing.assert_allclose(torch.cat(blocks, dim=1), x[[2, 0]], atol=1e-6)
    assert not remarks
    cut = torch.cat(list(decoded(pieces(data[:-4], *sizes), how, 3, None, "stdin", remarks.append)), dim=1)
    np.testing.assert_allclose(cut, x[:, :39], atol=1e-6)
    assert remarks == ["stdin ends in the middle of a sample, after 5 of 9 bytes: is it s24le with 3 channels?"]


def test_samples_that_are_no_numbers_are_refused() -> None:
    data = np.array([0, 0, np.inf], dtype="<f4").tobytes()
    with pytest.raises(AudioError, match="stdin holds NaN or infinite samples after sample 2: is it f32le"):
        list(decoded(pieces(data, 8), RAW_FORMATS["f32le"], 1, None, "stdin", print))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 16000), (8000, 16000), (44100, 16000), (16001, 16000)])
def test_a_stream_is_resampled_as_the_whole(from_rate: int, to_rate: int) -> None:
    x = 0.1 * torch.randn(2, 30_011, generator=torch.Generator().manual_seed(0))
    whole = audio.resample(x, from_rate, to_rate)
    for size in (1703, 30_011):
        outputs = list(resampled_blocks(x.split(size, dim=1), from_rate, to_rate))
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-5, rtol=0)
    assert list(resampled_blocks([], from_rate, to_rate)) == []
    first = next(resampled_blocks(iter([x[:, :9000]]), from_rate, to_rate))
    assert first.shape[1] > 0.8 * 9000 * to_rate / from_rate  # it does not wait for the end


def test_a_signal_of_unknown_length_is_a_window_that_forgets() -> None:
    x, taken = torch.arange(20.0)[None], list[int]()

    def blocks() -> Iterator[Tensor]:
        for block in x.split(3, dim=1):
            taken.append(block.shape[1])
            yield block

    signal = Arriving(blocks(), 1)
    assert signal.end(4) == 4
    assert sum(taken) == 6  # no more than is needed
    assert torch.equal(signal.read(2, 4), x[:, 2:4])
    assert signal.end(19) == 19
    assert torch.equal(signal.read(10, 19), x[:, 10:19])
    assert signal._window.shape[1] <= 11
    assert signal.end(50) == signal.end(21) == 20
    assert torch.equal(signal.read(19, 20), x[:, 19:])
