"""Causal networks one frame after the other, eager and in onnxruntime, against their own pass over the whole signal.

The stepper in onnxruntime takes turns with the bare call, too: ``run`` of the session in a loop, its state in a dict.
scripts/bench_stream.py measures the same networks for docs/streaming.md: there the time and the 99th percentile of
single frames, memory and file size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Measured, Setting, agree, alone, compared, in_turns, per_unit

TOLERANCE = 1e-3
BARE = "onnxruntime, against its bare call"


def stream(setting: dict[str, Any], name: str) -> Measured:
    """Compare streams and the offline pass of an entry of conf/generator, then time them per second of sound."""
    import networks_table
    import torch

    from bcfusion.errors import ExportError
    from bcfusion.export.onnx_export import export_step
    from bcfusion.export.onnx_stepper import OnnxStepper, open_session
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
    session: Any = None
    try:
        session, metadata = open_session(export_step(model).SerializeToString())
        steppers["onnxruntime"] = OnnxStepper((session, metadata))
    except ExportError as error:
        result.notes.append(f"onnxruntime: {str(error).splitlines()[0]}")
    wanted = offline()
    for kind, stepper in steppers.items():
        found = stream_signal(stepper, signal)
        difference = float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-12))
        result.agreement.append(agree(f"{kind} stream and offline pass", difference, TOLERANCE))
        if kind == "onnxruntime":
            difference = float(np.abs(bare_calls(session, stepper, signal) - found).max())
            result.agreement.append(agree("stream and bare calls, of full scale", difference, 1e-6))

    for kind, stepper in steppers.items():
        sides = {
            kind: per_unit(lambda each=stepper: stream_signal(each, signal), seconds),
            "offline": per_unit(offline, seconds),
        }
        taken = in_turns(sides, how)
        result.figures.append(compared(kind, "s per s", kind, "offline", taken))
        result.figures.append(alone(f"{kind}, real-time factor", "s per s", kind, [t.measure for t in taken[kind]]))
    if session is not None:
        ours = steppers["onnxruntime"]
        sides = {
            "stepper": per_unit(lambda: stream_signal(ours, signal), seconds),
            "bare call": per_unit(lambda: bare_calls(session, ours, signal), seconds),
        }
        result.figures.append(compared(BARE, "s per s", "stepper", "bare call", in_turns(sides, how)))
    for stepper in steppers.values():
        stepper.close()
    return result


def bare_calls(session: Any, stepper: Any, signal: np.ndarray) -> np.ndarray:
    """Return what a loop over ``session.run`` gives for a signal ``(sensors, samples)``, aligned with it."""
    first, *states = [each.name for each in session.get_inputs()]
    state = {each.name: np.zeros(each.shape, np.float32) for each in session.get_inputs()[1:]}
    frame, samples = stepper.frame, signal.shape[-1]
    steps = -(-(samples + stepper.lookahead) // frame)
    padded = np.pad(signal, ((0, 0), (0, steps * frame - samples)))
    parts = []
    for begin in range(0, steps * frame, frame):
        y, *after = session.run(None, {first: padded[None, :, begin : begin + frame], **state})
        state = dict(zip(states, after, strict=True))
        parts.append(y[0, 0])
    return np.concatenate(parts)[stepper.lookahead :][:samples]
