"""From a network to a checked file: what the verb ``export`` does, as a function."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from bcfusion.errors import ConfigError, WriteError
from bcfusion.export.metadata import INPUT, OPSET, OUTPUT, Metadata, Precision, parse_metadata, sidecar_of
from bcfusion.export.onnx_export import export_step, export_whole, newest_opset, stamp
from bcfusion.export.onnx_stepper import OnnxStepper, open_session
from bcfusion.export.precision import Weights, in_float16, in_int8
from bcfusion.export.sherpa import export_sherpa
from bcfusion.export.sherpa_stepper import SherpaStepper
from bcfusion.export.step import ready
from bcfusion.export.torch_program import ProgramStepper, load_program, program_of, save_program
from bcfusion.export.verification import TOLERANCE, Verified, real_time_factor, speech_of, verify_step, verify_whole
from bcfusion.files import appearing, read_object, write_text
from bcfusion.inference.blend import Blend
from bcfusion.inference.stepping import Frames, Stepper, stream_signal
from bcfusion.run.card import Card

__all__ = ["Exported", "Wishes", "export_file"]


@dataclass(frozen=True)
class Wishes:
    """How a network is exported.

    Attributes:
        format: ``onnx``, or ``torch`` for a ``.pt2`` file.
        runtime: ``onnxruntime``; or ``sherpa-onnx``, whose speech denoiser takes the file.
        whole: a graph for whole files instead of a step.
        frame: samples of a step; None: see :func:`bcfusion.nn.network.usual_frame`.
        packed: whether the state is one vector.
        share: of the sensor in the output, see :func:`bcfusion.inference.blend.input_share`.
        precision: of the weights.
        opset: of ONNX.
    """

    format: Literal["onnx", "torch"] = "onnx"
    runtime: Literal["onnxruntime", "sherpa-onnx"] = "onnxruntime"
    whole: bool = False
    frame: int | None = None
    packed: bool = False
    share: float = 0.0
    precision: Precision = "fp32"
    opset: int = OPSET

    def problems(self) -> list[str]:
        """Return what does not go together.

        Raises:
            ExportError: a package is missing.
        """
        found = []
        if self.whole and self.frame is not None:
            found.append("--whole has no frame: it takes files of any length")
        if self.whole and self.packed:
            found.append("--whole has no state to pack")
        if self.runtime == "sherpa-onnx":
            wrong = {"--whole": self.whole, "--pack": self.packed, "--format torch": self.format == "torch"}
            found += [f"{option} does not go with --runtime sherpa-onnx" for option, given in wrong.items() if given]
        if self.format == "torch" and self.precision != "fp32":
            found.append(f"--precision {self.precision} is for ONNX files, not for --format torch")
        if self.format == "torch" and self.whole:
            found.append("--whole is for ONNX files: a program of torch is bound to the length that it was traced with")
        if self.format == "onnx" and self.opset < OPSET:
            found.append(f"--opset {self.opset} lacks what networks need: give {OPSET} or a later one")
        if self.format == "onnx" and self.opset > OPSET and self.opset > (newest := newest_opset()):
            found.append(f"--opset {self.opset} is not known: give {OPSET} to {newest}")
        return found


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        file: its path.
        size: bytes.
        metadata: as in the file.
        verified: what the check measured.
        float32: size in bytes and real-time factor of the same graph in float32, for smaller weights.
    """

    file: Path
    size: int
    metadata: Metadata
    verified: Verified
    float32: tuple[int, float] | None = None

    @property
    def gains_nothing(self) -> bool:
        """Whether smaller weights have made the file neither smaller nor faster, by 5 %."""
        if self.float32 is None:
            return False
        size, factor = self.float32
        return self.size > 0.95 * size and self.verified.real_time_factor > 0.95 * factor


def export_file(
    generator: nn.Module,
    file: str | os.PathLike[str],
    wishes: Wishes | None = None,
    *,
    signal: Frames | None = None,
    clean: Frames | None = None,
    card: Card | None = None,
    sidecar: bool = False,
) -> Exported:
    """Export a network, compare the file with the network, and only then let it appear.

    Args:
        generator: from :func:`bcfusion.run.bundle.load_generator`; it is left unchanged.
        file: to write; an existing one is replaced, and its sidecar too, or removed.
        wishes: None for the defaults.
        signal: ``(S, T)``, the utterance of the comparison; None for synthetic speech.
        clean: ``(T,)``, what it should become, the reference of PESQ and STOI; None for the network's own output, or
            the synthetic speech itself.
        card: of the model; its licences are written into the file.
        sidecar: whether to write the metadata as JSON beside it, too; neither appears without the other.

    Raises:
        ConfigError: wishes that do not go together, or a frame that is no multiple of the hop.
        ExportError: the network cannot be exported, or the file does not do what the network does.
        StreamingError: a layer is not causal; it is named.
        WriteError: the file cannot be written.
    """
    wishes = wishes or Wishes()
    if problems := wishes.problems():
        raise ConfigError(problems)
    target = Path(file)
    network = ready(Blend(generator, wishes.share) if wishes.share else generator)
    if signal is None:
        signal, clean = speech_of(network)
    threads = torch.get_num_threads()
    side, replaced = sidecar_of(target), target.exists()
    for each in (target, side) if sidecar else (target,):
        if each.is_dir():  # now, since one of two files could not appear
            raise WriteError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(each))
    with ExitStack() as both:
        # in this order: what is left of an earlier model would describe another one, and the model appears first
        beside = both.enter_context(appearing(side)) if sidecar else None
        part = both.enter_context(appearing(target))
        try:
            torch.set_num_threads(1)  # the speed of one thread is what is reported
            write = _write_onnx if wishes.format == "onnx" else _write_program
            metadata, verified, float32 = write(network, part, wishes, (signal, clean), card)
        finally:
            torch.set_num_threads(threads)
        verified.require(TOLERANCE if wishes.precision == "fp32" else np.inf)
        size = part.stat().st_size
        if beside is not None:
            text = json.dumps(metadata.plain(), indent=2, ensure_ascii=False) + "\n"
            write_text(beside, text)
    if replaced and not sidecar and _is_sidecar(side):
        side.unlink()  # it describes the earlier model
    return Exported(target, size, metadata, verified, float32)


def _is_sidecar(file: Path) -> bool:
    """Return whether a JSON file is one that an export wrote, not a file of the user's with the same name."""
    return {"kind", "sample_rate", "sensors", "states"} <= read_object(file).keys()


_Done = tuple[Metadata, Verified, tuple[int, float] | None]


def _write_onnx(
    network: nn.Module, part: Path, wishes: Wishes, speech: tuple[Frames, Frames | None], card: Card | None
) -> _Done:
    if wishes.runtime == "sherpa-onnx":
        model = export_sherpa(network, wishes.frame, opset=wishes.opset, card=card)
    elif wishes.whole:
        model = export_whole(network, opset=wishes.opset, card=card)
    else:
        model = export_step(network, wishes.frame, packed=wishes.packed, opset=wishes.opset, card=card)
    content = model.SerializeToString()
    metadata = parse_metadata({entry.key: entry.value for entry in model.metadata_props}, part)
    float32 = None
    if wishes.precision != "fp32":
        run, _ = _runner(content, wishes)
        float32 = len(content), real_time_factor(run, speech[0], metadata.sample_rate)
        metadata = replace(metadata, precision=wishes.precision)
        change = in_float16 if wishes.precision == "fp16" else in_int8
        model = change(model, Weights(network))
        stamp(model, metadata)
        content = model.SerializeToString()
    part.write_bytes(content)
    del model, content
    run, stepper = _runner(part, wishes)
    if stepper is None:
        return metadata, verify_whole(network, run, *speech), float32
    return metadata, verify_step(network, stepper, *speech), float32


def _runner(file: Path | bytes, wishes: Wishes) -> tuple[Callable[[Frames], Frames], Stepper | None]:
    """Return what runs a file on a signal; and its stepper, unless it is for whole files."""
    if not wishes.whole:
        stepper = SherpaStepper(file) if wishes.runtime == "sherpa-onnx" else OnnxStepper(file)
        return lambda x: stream_signal(stepper, x), stepper
    session, _ = open_session(file)

    def restore(x: Frames) -> Frames:
        [y] = session.run([OUTPUT], {INPUT: x[None]})
        return np.asarray(y[0, 0], dtype=np.float32)

    return restore, None


def _write_program(
    network: nn.Module, part: Path, wishes: Wishes, speech: tuple[Frames, Frames | None], card: Card | None
) -> _Done:
    program, metadata = program_of(network, wishes.frame, packed=wishes.packed, card=card)
    save_program(program, metadata, part)
    module, metadata = load_program(part)
    return metadata, verify_step(network, ProgramStepper(module, metadata), *speech), None
