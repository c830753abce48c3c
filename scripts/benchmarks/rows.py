"""The rows, in the order of the table; importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, Wanted, at_least, at_most

VIBRAVOX, AURALOSS, ENCODEC, ASTEROID = "vibravox 0.1.1", "auraloss 0.4.0", "encodec 0.1.1", "asteroid 0.7.0"
LINEAR = at_most(1.1)  # a tenth is left for caches that become too small
#: entries of conf/generator that stream
CAUSAL = (
    *("attention_fusion", "baf_net", "band_gain_causal", "bsrnn_causal", "codec", "conditioned", "conv_tasnet_causal"),
    *("dccrn_causal", "dpcrn", "eben_causal", "gtcrn", "identity", "laco_senet", "laco_senet_mask", "late_fusion"),
    *("seanet_streaming", "spectrogram_transformer_causal", "tasnet_causal", "two_branch", "unet_causal"),
)
SIMULATED = {"": "", "_simulated": "eben_lowpass"}
CALIBRATED = {"_calibrated": "transfer_function", "_augmented": "augmented"}
SENSORS = {
    "eben_lowpass": ", body simulated (eben_lowpass)",
    "transfer_function": ", body simulated (transfer_function, --calibration FILE)",
    "augmented": ", body simulated (transfer_function, --calibration FILE) and every body_* augmentation",
}


def steps() -> Iterator[Row]:
    wanted = {"time": at_most(0.6), "peak memory": at_most(0.75)}
    for name, words, samples in (("16384", "16384 samples", 16384), ("2.5s", "2.5 s", 40000)):
        yield Row(
            f"step_eben_{name}",
            f"EBEN GAN step, 4 x {words}: hinge, features, MR-STFT, balancer",
            f"{VIBRAVOX}: its training_step",
            "benchmarks.step:against_vibravox",
            wanted,
            {"samples": samples},
        )
    yield Row(
        "step_eben_variants",
        "EBEN GAN step, 4 x 16384 samples: two passes of the discriminators; generator's update with balancing",
        "our step with four passes; with fixed weights",
        "benchmarks.step:variants",
        {"passes": None, "balancing": at_most(1.3)},
        {"samples": 16384},
    )


def networks() -> Iterator[Row]:
    for name, words, peer in (
        ("seanet", "SEANet, 4 x 16384 samples, forward and backward", f"{ENCODEC}: its blocks, put together alike"),
        ("conv_tasnet", "Conv-TasNet, 4 x 16384 samples, forward and backward", ASTEROID),
        ("dccrn", "DCCRN-CL between the transforms, 4 x 164 frames", f"{ASTEROID}: its blocks, put together alike"),
    ):
        arguments = {"name": name, "peer": peer.partition(":")[0]}
        yield Row(name, words, peer, "benchmarks.networks:network", {"time": at_most(0.9)}, arguments)
    yield Row(
        "mr_stft",
        "multi-resolution STFT loss, 4 x 2.5 s, value and gradient",
        AURALOSS,
        "benchmarks.networks:mr_stft",
        {"time": at_most(0.4)},
        {"peer": AURALOSS},
    )


def metrics() -> Iterator[Row]:
    yield Row(
        "metrics",
        "PESQ, STOI, ESTOI and SI-SDR of 100 utterances, two processes",
        "torchmetrics, a loop in one process",
        "benchmarks.scores:metrics",
        {"time": at_most(0.5)},
        threads=1,
    )


def loaders() -> Iterator[Row]:
    kinds = [(kind, suffix, how) for kind in ("flac", "wav", "opus", "shards") for suffix, how in SIMULATED.items()]
    kinds += [("flac", suffix, how) for suffix, how in CALIBRATED.items()]
    for kind, suffix, simulated in kinds:
        limit = at_least(0.7) if simulated in SIMULATED.values() else None
        wanted: dict[str, Wanted | None] = {"0 workers": limit, "2 workers": limit}
        arguments = {"kind": kind, "simulated": simulated}
        if (kind, suffix) == ("flac", ""):
            wanted |= {"against torchaudio": None, "against datasets": None}
            arguments["peers"] = ["torchaudio", "datasets"]
        yield Row(
            f"loader_{kind}{suffix}",
            f"training loader, {'shards of flac' if kind == 'shards' else kind}{SENSORS.get(simulated, '')}",
            "soundfile alone, as many processes" + ("; torchaudio, datasets" if "peers" in arguments else ""),
            "benchmarks.loader:loader",
            wanted,
            arguments,
            threads=1,
        )


def streams() -> Iterator[Row]:
    for name in CAUSAL:
        wanted: dict[str, Wanted | None] = {"eager": None, "onnxruntime": at_most(1.5)}
        wanted |= {f"{kind}, real-time factor": at_most(0.5) for kind in ("eager", "onnxruntime")}
        wanted["onnxruntime, against its bare call"] = None
        yield Row(
            f"stream_{name}",
            f"{name}, frame by frame, per second of sound",
            "its own pass over the whole signal",
            "benchmarks.streams:stream",
            wanted,
            {"name": name},
            threads=1,
        )


def starts() -> Iterator[Row]:
    bare, imports = "a bare interpreter", "import torch, lightning, hydra"
    for name, words, other, wanted in (
        ("help", "bcfusion --help", bare, at_most(3)),
        ("import", "import bcfusion", bare, None),
        ("check", "bcfusion check check.step=false", imports, at_most(1.2)),
        ("train", "bcfusion train until the end of its first step, cache warm", imports, at_most(2)),
    ):
        function = "benchmarks.start:start"
        yield Row(f"start_{name}", words, other, function, {"time": wanted}, {"command": name})


def stalls() -> Iterator[Row]:
    yield Row(
        "validation_stall",
        "seconds that training steps stand still because of a validation, over its seconds until its last score",
        "none",
        "benchmarks.stall:validation_stall",
        {
            "stalled": at_most(0.15),
            **dict.fromkeys(("enhancing", "waiting for scores", "sounds and pictures", "checkpoints")),
        },
        threads=1,
    )


def growth() -> Iterator[Row]:
    many, few = "1,000,000 rows", "1,000 rows"
    linear = "the smaller size, per unit"
    for name, words, other, wanted, threads in (
        ("batch", "training step, per item", linear, {f"batch {n} to batch 1": LINEAR for n in (4, 16)}, None),
        (
            "length",
            "training step and restoration, per second of sound",
            linear,
            {"8 s to 1 s": LINEAR, "recording of 240 s to recording of 30 s": LINEAR},
            None,
        ),
        (
            "manifest",
            "from a manifest to the first batch, fresh process",
            linear,
            {
                f"{many} to 100,000 rows": LINEAR,
                f"{many}, s above {few}": at_most(5),
                f"{many}, GB above {few}": at_most(0.5),
            },
            1,
        ),
        ("validation", "evaluation, per utterance", linear, {"64 utterances to 8 utterances": LINEAR}, 1),
        (
            "workers",
            "training loader with two workers",
            "with one worker",
            {"flac": at_least(1.8), "flac, simulated": at_least(1.8)},
            1,
        ),
        (
            "processes",
            "training in two and in four processes",
            "in one process",
            {
                "2 processes, batch 4": at_least(1.8),
                "4 processes, batch 4": None,
                "2 processes, MB sent by each a step": None,
                "4 processes, MB sent by each a step": None,
                "2 processes, batch 1": None,
            },
            1,
        ),
    ):
        yield Row(f"growth_{name}", words, other, f"benchmarks.growth:{name}", wanted, threads=threads)


ROWS: dict[str, Row] = {
    row.name: row for family in (steps, networks, metrics, loaders, streams, starts, stalls, growth) for row in family()
}
