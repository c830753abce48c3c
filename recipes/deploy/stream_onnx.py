#!/usr/bin/env python3
"""Restore a WAV file with a network exported by ``bcfusion export``; needs numpy and onnxruntime, nothing else.

    python stream_onnx.py model.onnx input.wav output.wav

The file is read, restored and written frame by frame, as a live stream would be: a channel for each sensor in, one
channel of 32-bit floats out, aligned with the input and as long.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import onnxruntime

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


class Stream:
    """A network and its state."""

    def __init__(self, path: str, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # a sound that fades out costs no more
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        properties = self.session.get_modelmeta().custom_metadata_map
        if properties.get("bcfusion.kind") != "stream":
            sys.exit(f"{path} is not a streaming network of bcfusion: export it without --whole")
        self.sample_rate, self.frame, self.lookahead = (
            int(properties[f"bcfusion.{key}"]) for key in ("sample_rate", "frame", "lookahead")
        )
        self.sensors: list[str] = json.loads(properties["bcfusion.sensors"])
        self.inputs = self.session.get_inputs()[1:]  # the first is the sound, the others are the state
        self.names = [tensor.name for tensor in self.session.get_outputs()]
        self.state = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in self.inputs}

    def step(self, chunk: np.ndarray) -> np.ndarray:
        """Take the next frame ``(sensors, frame)``; return ``(frame,)``, late by ``lookahead`` samples."""
        output, *state = self.session.run(self.names, {"x": chunk[None], **self.state})
        self.state = {tensor.name: new for tensor, new in zip(self.inputs, state, strict=True)}
        return output[0, 0]


class Wav(NamedTuple):
    """Where the sound of a WAV file is, and what a sample is."""

    rate: int
    channels: int
    kind: int
    bytes: int
    length: int  # samples of each channel


def open_wav(file: BinaryIO) -> Wav:
    """Read the header and stop before the first sample."""
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        sys.exit(f"{file.name} is not a WAV file")
    kind = channels = rate = bits = 0
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            if (kind, bits) not in {(PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
                sys.exit(
                    f"{file.name}: {bits} bits of format {kind} are not read here: give 16, 24 or 32-bit PCM or floats"
                )
            size = sound_size(file, size, struct.unpack_from("<I", start, 4)[0])
            return Wav(rate, channels, kind, bits // 8, size // (channels * bits // 8))
        body = file.read(size + size % 2)
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind == EXTENSIBLE:
                kind = struct.unpack_from("<H", body, 24)[0]
    sys.exit(f"{file.name} has no sound")


def sound_size(file: BinaryIO, size: int, riff: int) -> int:
    """Return the bytes of sound after a header that states ``size``, which may never have been finished."""
    if not file.seekable():
        return size
    begin = file.tell()
    end = file.seek(0, 2)
    file.seek(begin)
    if size == 0 and riff + 8 != end:  # otherwise there is no sound
        return end - begin
    if end - begin < size < 0x7F000000:  # larger ones stand for "unknown"
        print(f"{file.name} is truncated: {end - begin} of {size} bytes of sound are there", file=sys.stderr)
    return min(size, end - begin)


def samples_of(data: bytes, wav: Wav) -> np.ndarray:
    """Return ``(channels, T)`` in -1 to 1."""
    if wav.kind == FLOAT:
        values = np.frombuffer(data, f"<f{wav.bytes}").astype(np.float32)
    else:  # into the high bytes of 32 bits, so that 24 bits need no rule of their own
        padded = np.zeros((len(data) // wav.bytes, 4), np.uint8)
        padded[:, 4 - wav.bytes :] = np.frombuffer(data, np.uint8).reshape(-1, wav.bytes)
        values = padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    return values.reshape(-1, wav.channels).T


def frames_of(file: BinaryIO, wav: Wav, frame: int, total: int) -> Iterator[np.ndarray]:
    """Yield frames ``(channels, frame)`` until they hold ``total`` samples; zeros follow the end of the file."""
    left = wav.length
    for _ in range(-(-total // frame)):
        count = min(frame, left)
        left -= count
        chunk = np.zeros((wav.channels, frame), np.float32)
        if count:
            samples = samples_of(file.read(count * wav.channels * wav.bytes), wav)
            chunk[:, : samples.shape[1]] = samples
        yield chunk


def main(model: str, source: str, target: str) -> None:
    """Restore ``source`` into ``target``."""
    stream = Stream(model)
    with open(source, "rb") as file:
        wav = open_wav(file)
        if (wav.rate, wav.channels) != (stream.sample_rate, len(stream.sensors)):
            wanted = f"{stream.sample_rate} Hz and the channels {', '.join(stream.sensors)}"
            sys.exit(f"{source} has {wav.rate} Hz and {wav.channels} channels; {model} takes {wanted}")
        part = f"{target}.part"  # the target appears whole, and may be the source
        with open(part, "wb") as out:
            size = 4 * wav.length
            form = struct.pack("<4sIHHIIHH", b"fmt ", 16, FLOAT, 1, wav.rate, 4 * wav.rate, 4, 32)
            out.write(struct.pack("<4sI4s", b"RIFF", 48 + size, b"WAVE") + form)
            out.write(struct.pack("<4sII4sI", b"fact", 4, wav.length, b"data", size))
            drop, left = stream.lookahead, wav.length  # the output is late by the look-ahead
            for chunk in frames_of(file, wav, stream.frame, wav.length + stream.lookahead):
                output = stream.step(chunk)[min(drop, stream.frame) :][:left]
                drop, left = max(0, drop - stream.frame), left - len(output)
                out.write(output.astype("<f4").tobytes())
    os.replace(part, target)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: stream_onnx.py MODEL.onnx INPUT.wav OUTPUT.wav")
    main(*sys.argv[1:])
