"""Make a shipped model of a finished run or a bundle: float16 weights and a card, in bcfusion/pretrained/NAME.

python scripts/ship_model.py RUN --name throat --card card.yaml --scores fold*/scores.csv
python scripts/ship_model.py RUN --name throat --card card.yaml --output /srv/models      a team's own model

The card is YAML as `bcfusion.run.card` describes it (docs/models.md has an example). `--scores` takes scores.csv of
`bcfusion evaluate`, of several folds, and of several seeds, over which the scores of a recording are averaged; from
them come the means of input and output, and the mean change with its 95 % bootstrap interval. What belongs to the
machine that trained the model (paths, folders, budgets) is left out of the bundle. The output of the stored weights
must be as near to that of the original ones as `--least-snr` says, on the sounds given by `--signal`, or else on noise
with the pauses of speech.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from omegaconf import MissingMandatoryValue, OmegaConf
from torch import Tensor

from bcfusion.audio import read, resample
from bcfusion.configuration.compose import build
from bcfusion.configuration.paths import conf_dir, group_members
from bcfusion.configuration.suggestions import read_yaml
from bcfusion.errors import BcfusionError, CheckpointError, DataError
from bcfusion.evaluation.statistics import paired_difference
from bcfusion.evaluation.systems import ENHANCED, is_input
from bcfusion.files import appearing_folder
from bcfusion.inference.enhance import enhance_signal
from bcfusion.nearest import did_you_mean
from bcfusion.report.comparison.run_files import read_scores
from bcfusion.run.bundle import bundle_of, load_generator, save_bundle
from bcfusion.run.card import CARD, Card, MetricScore, read_card
from bcfusion.run.description import FILES
from bcfusion.run.models import SHIPPED
from bcfusion.run.portable import portable_training, without_paths

LIMIT = 8_000_000  # bytes of all shipped models together
SECONDS = 4.0  # of the noise


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        folder = ship(arguments)
    except BcfusionError as error:
        print(error, file=sys.stderr)
        return 2
    total = sum(file.stat().st_size for file in folder.parent.rglob("*") if file.is_file())
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f} MB")
    print(f"all models in {folder.parent}: {total / 1e6:.2f} MB, of at most {LIMIT / 1e6:g} in the package")
    return 0


def _higher_is_better(metric: str) -> bool:
    """Return the direction of a metric of conf/metrics."""
    if metric not in group_members("metrics"):
        raise DataError(f"--metrics {metric}: there is no such metric{did_you_mean(metric, group_members('metrics'))}")
    entries = read_yaml(conf_dir() / "metrics" / f"{metric}.yaml")
    node = OmegaConf.create({"sample_rate": 16000, "cutoff_frequency": 1000, "metrics": entries})
    try:
        return bool(build(node.metrics[metric]).higher_is_better[metric])
    except MissingMandatoryValue as error:
        raise DataError(f"--metrics {metric}: its scores depend on settings that a card does not state") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="RUN", help="run directory, bundle or .ckpt")
    parser.add_argument("--name", required=True, help="what users type")
    parser.add_argument("--card", required=True, type=Path, help="its card, as far as a person writes it")
    parser.add_argument("--scores", nargs="+", type=Path, default=[], metavar="CSV", help="scores out of fold")
    parser.add_argument("--metrics", default="stoi,pesq_wb", help="metrics to state; default: stoi,pesq_wb")
    parser.add_argument("--input", help="the system to compare with; default: the input, of several the last sensor")
    parser.add_argument("--signal", nargs="+", metavar="FILE", default=[], help="mono sounds, one for each sensor")
    parser.add_argument("--least-snr", type=float, default=40.0, metavar="DB", help="default: 40")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default: float16")
    parser.add_argument("--output", type=Path, default=SHIPPED, metavar="DIR", help="default: bcfusion/pretrained")
    parser.add_argument("--overwrite", action="store_true", help="replace the model of that name")
    return parser


def ship(arguments: argparse.Namespace) -> Path:
    """Write the model, print what was measured, and return its folder.

    Raises:
        BcfusionError: the model or its card cannot be read, the weights do not fit into float16, or the name is taken.
    """
    folder = arguments.output / arguments.name
    if folder.exists() and not arguments.overwrite:
        raise CheckpointError(f"{folder} exists: give --overwrite to replace it")
    if folder.exists() and not {entry.name for entry in folder.iterdir()} <= {*FILES, CARD}:
        raise CheckpointError(f"{folder} holds other things than a model: move it away")
    card = read_card(arguments.card)
    if card is None:
        raise CheckpointError(f"there is no card at {arguments.card}")
    original = load_generator(arguments.model)
    bundle = bundle_of(original)
    assert bundle is not None  # load_generator attaches it
    if wrong := sorted(card.sensors.keys() - set(bundle.sensors)):
        raise CheckpointError(f"{arguments.card}: sensors names {', '.join(wrong)}; the network takes {bundle.sensors}")
    if arguments.scores:
        card = _with_scores(card, arguments.scores, arguments.metrics.split(","), arguments.input)
    inputs = _inputs(arguments.signal, len(bundle.sensors), bundle.sample_rate)
    with tempfile.TemporaryDirectory() as scratch:
        made = save_bundle(
            Path(scratch) / arguments.name,
            original,
            without_paths(bundle.generator),
            bundle.sensors,
            portable_training(bundle.training),
            dtype=getattr(torch, arguments.dtype),
        )
        snr = _snr(enhance_signal(original, inputs), enhance_signal(load_generator(made), inputs))
        on = "given sounds" if arguments.signal else "noise"
        print(f"{arguments.dtype} weights: the output has an SNR of {snr:.1f} dB against the original ones, on {on}")
        if snr < arguments.least_snr:
            raise CheckpointError(f"an SNR of {snr:.1f} dB is below --least-snr {arguments.least_snr:g}")
        if arguments.dtype != "float32":
            note = f"Weights are stored in {arguments.dtype}: the output has an SNR of {snr:.0f} dB against float32."
            card = replace(card, notes=(*card.notes, note))
        with appearing_folder(folder) as part:
            for name in FILES:
                shutil.copyfile(made / name, part / name)
            text = yaml.safe_dump(card.plain(), sort_keys=False, allow_unicode=True, width=120)
            (part / CARD).write_text(text, encoding="utf-8")
    return folder


# ---------------------------------------------------------------- scores


def _with_scores(card: Card, files: Sequence[Path], metrics: Sequence[str], reference: str | None) -> Card:
    """Return a card with the means over all recordings of several tables of scores.

    Raises:
        DataError: a table cannot be read, or lacks a metric or a system; or the card does not say what the scores are.
    """
    if card.scores is None:
        raise DataError("the card has no scores.what: say what was scored, and how it was kept out of training")
    found: dict[str, tuple[dict[str, list[float]], dict[str, list[float]]]] = {name: ({}, {}) for name in metrics}
    for file in files:
        try:
            table = read_scores(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: {error}") from error
        before = reference or next((name for name in reversed(list(table.systems)) if is_input(name)), None)
        for metric, sides in found.items():
            for system, side in zip((before, ENHANCED), sides, strict=True):
                if system not in table.systems or not table.systems[system].metrics.get(metric):
                    raise DataError(f"{file} has no {metric} of {system or 'the input'}")
                for item, value in table.systems[system].metrics[metric].items():
                    side.setdefault(item, []).append(value)
    scores, ids = {}, set()
    for metric, sides in found.items():
        unprocessed, enhanced = ({item: math.fsum(each) / len(each) for item, each in side.items()} for side in sides)
        difference = paired_difference(unprocessed, enhanced)
        ids |= enhanced.keys()
        interval = None
        if math.isfinite(difference.low):
            interval = (_short(difference.low), _short(difference.high))
        scores[metric] = MetricScore(
            input=_short(_mean(unprocessed)),
            enhanced=_short(_mean(enhanced)),
            change=_short(difference.mean),
            interval=interval,
            higher_is_better=_higher_is_better(metric),
        )
        print(
            f"{metric}: {scores[metric].input} to {scores[metric].enhanced}, change {scores[metric].change}, interval "
            f"{interval}, {difference.count} recordings in {len(files)} tables"
        )
    return replace(card, scores=replace(card.scores, utterances=len(ids), metrics=scores))


def _mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)


def _short(value: float) -> float:
    return round(value, 5)  # two more than any table shows


# ---------------------------------------------------------------- what float16 changes


def _inputs(files: Sequence[str], sensors: int, rate: int) -> Tensor:
    """Return ``(S, T)``: the sounds given, resampled, or noise at -26 dB re full scale with the pauses of speech.

    Raises:
        DataError: another number of sounds is given than the network has sensors.
    """
    if not files:
        generator = np.random.default_rng(0)
        seconds = np.arange(round(SECONDS * rate)) / rate
        syllables = np.sin(2 * np.pi * 2 * seconds).clip(0)  # two a second
        noise = 0.05 * syllables * generator.standard_normal((sensors, len(seconds)))
        return torch.from_numpy(noise.astype(np.float32))
    if len(files) != sensors:
        raise DataError(f"--signal: {len(files)} sounds for a network of {sensors} sensors")
    sounds = [resample(torch.from_numpy(signal[0]), own, rate) for signal, own in map(read, files)]
    length = min(map(len, sounds))
    return torch.stack([sound[:length] for sound in sounds])


def _snr(wanted: Tensor, found: Tensor) -> float:
    """Return the ratio in dB of a signal's energy to that of its difference from another one."""
    error = float((wanted - found).double().square().sum())
    return math.inf if error == 0 else 10 * math.log10(float(wanted.double().square().sum()) / error)


if __name__ == "__main__":
    sys.exit(main())
