"""Causal networks one frame after the other, eager and in onnxruntime, against their own pass over the whole signal.

scripts/bench_stream.py measures the same networks for docs/streaming.md: there the time and the 99th percentile of
single frames, memory and file size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Measured, Setting, agree, alone, compared, in_turns, per_unit

TOLERANCE = 1e-3


def stream(setting: dict[str, Any], name: str) -> Measured:
    """Compare streams and the offline pass of an entry of conf/generator, then time them per second of sound."""
    import networks_table
    import torch

    from bcfusion.errors import ExportError
    from bcfusion.export.onnx_export import export_step
    from bcfusion.export.onnx_stepper import OnnxStepper
    from bcfusion.inference.stepping import Stepper, TorchStepper, stream_signal
    from bcfusion.nn.conv import remove_weight_norm
    from bcfusion.nn.network import estimate_of

    how = Setting(**setting)
    model = remove_weight_norm(networks_table.network(name)).eval()
    rate, channels = int(model.sample_rate), int(model.in_channels)  # type: ignore[arg-type]
    seconds = 0.5 if how.rehearsal else 5.0
    signal = (0.07 * np.random.default_rng(0).standard_normal((channels, round(seconds * rate)))).astype(np.float32)

    def offline() -> np.ndarray:
        with torch.inference_mode():
            return estimate_of(model(torch.from_numpy(signal)[None]))[0, 0].numpy()  # type: ignore[no-any-return]

    streamed = remove_weight_norm(networks_table.network(name)).eval()  # while it streams, it does nothing else
    streamed.load_state_dict(model.state_dict())
    result = Measured(notes=[f"{seconds:g} s of noise at {rate} Hz, one item, random weights"])
    steppers: dict[str, Stepper] = {"eager": TorchStepper(streamed)}
    frame = steppers["eager"].frame
    result.notes.append(f"frames of {frame} samples, {1000 * frame / rate:g} ms: what a stream takes by default")
    try:
        steppers["onnxruntime"] = OnnxStepper(export_step(model).SerializeToString())
    except ExportError as error:
        result.notes.append(f"onnxruntime: {str(error).splitlines()[0]}")
    wanted = offline()
    for kind, stepper in steppers.items():
        found = stream_signal(stepper, signal)
        difference = float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-12))
        result.agreement.append(agree(f"{kind} stream and offline pass", difference, TOLERANCE))

    for kind, stepper in steppers.items():
        sides = {
            kind: per_unit(lambda each=stepper: stream_signal(each, signal), seconds),
            "offline": per_unit(offline, seconds),
        }
        taken = in_turns(sides, how)
        result.figures.append(compared(kind, "s per s", kind, "offline", taken))
        result.figures.append(alone(f"{kind}, real-time factor", "s per s", kind, [t.measure for t in taken[kind]]))
    for stepper in steppers.values():
        stepper.close()
    return result
