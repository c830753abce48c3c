"""``bcfusion evaluate``: a trained generator, or folders of enhanced files; every metric, the input beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import evaluate_folders, exit_status
from bcfusion.commands.shared.evaluate_output import conclude, hydra_directory, own_settings, parse_groups, timed_output
from bcfusion.commands.shared.hydra_app import run
from bcfusion.commands.shared.recorded import recorded_for_evaluation
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = """\
usage: bcfusion evaluate MODEL [split=NAME] [group_by=NAME,...] [key=value ...] [hydra options]
       bcfusion evaluate --enhanced DIR --reference DIR [--input DIR] [--name NAME] [group_by=NAME,...] [key=value ...]

Score a run, bundle or checkpoint on whole files. It starts from the settings that the model was trained with; what you
type wins. A run directory is evaluated by its best checkpoint, never by its last.

Or score files that any other program has enhanced, in the same way: they are matched by their path below the folders,
suffixes aside, and resampled to the rate of the references (or to sample_rate=HZ). --enhanced may be given several
times, each with its --name. Lengths that differ by no more than --tolerance SECONDS (0.1) are cut to the shorter one.

examples:
  bcfusion evaluate runs/bone_to_air/seanet/TIME
  bcfusion evaluate RUN data=folder data.root=/data/speech split=valid
  bcfusion evaluate RUN 'metrics=[pesq_wb,stoi,lsd]' group_by=speaker,snr
  bcfusion evaluate RUN data=pairs data.body=/data/throat data.air=/data/air degradation=none
  bcfusion evaluate RUN/checkpoints/best-stoi.ckpt
  bcfusion evaluate --enhanced theirs/ --reference clean/ --input noisy/ --name Theirs 'metrics=[pesq_wb,stoi]'

It prints the means of every system and their 95 % bootstrap intervals, and writes into RUN/evaluation/TIME (output=DIR
changes it): scores.csv and scores.parquet (each utterance), scores.md and scores.tex (tables), summary.csv (count,
mean, median, quartiles, interval), spread.png, with group_by=snr snr.png, and, of a model, samples/. Groups are by
speaker, corpus or snr.
"""


def main(argv: list[str]) -> int:
    """Runs the verb; returns the exit status."""
    for option in {"-m", "--multirun"}.intersection(argv):
        raise ConfigError(
            [f"{option}: evaluate is no sweep: run it for each value, each with an output=DIR of its own"]
        )
    if evaluate_folders.asked_for(argv):
        return evaluate_folders.main(argv)
    if not argv or argv[0].startswith("-") or ("=" in argv[0] and not Path(argv[0]).exists()):
        raise CheckpointError(
            "evaluate: name a model first: a run directory, a bundle or a .ckpt; or --enhanced DIR --reference DIR\n"
            "as in: bcfusion evaluate runs/bone_to_air/seanet/TIME"
        )
    model = Path(argv[0])
    given, settings = own_settings(argv[1:], ("split", "output", "group_by"))
    output = Path(settings["output"]) if "output" in settings else _output(model)
    overrides = [*merge_overrides(recorded_for_evaluation(model), given), hydra_directory(output)]
    split = settings.get("split", "test")
    if split not in ("valid", "test"):
        raise ConfigError([f"split: must be valid or test, not {split}"])
    group_by = parse_groups(settings["group_by"]) if "group_by" in settings else []
    run(
        lambda cfg: task(cfg, model, split, output, group_by),
        overrides,
        config_name="train",
        module_file=__file__,
        verb="evaluate",
    )
    return 0


def _output(model: Path) -> Path:
    inside = model if model.parent.parent.name else model.absolute()  # "best.ckpt" alone names no run above it
    run_dir = next((folder for folder in (inside, *inside.parents[:2]) if (folder / "overrides.yaml").is_file()), None)
    return timed_output(run_dir / "evaluation" if run_dir is not None else Path("runs") / "evaluation")


def task(cfg: DictConfig, model: Path, split: str, output: Path, group_by: Sequence[str]) -> None:
    """Evaluates, prints the tables, and writes scores and samples."""
    from bcfusion.configuration.check import verify_or_raise

    verify_or_raise(cfg, training=False)
    import torch

    from bcfusion.configuration.compose import build
    from bcfusion.evaluation.evaluate import evaluate_generator
    from bcfusion.evaluation.pool import Scorer
    from bcfusion.evaluation.utterances import Utterances
    from bcfusion.run.bundle import bundle_of, load_generator
    from bcfusion.training import device
    from bcfusion.training.assemble import build_datamodule
    from bcfusion.training.closing import SampleWriter

    generator = load_generator(model, device="cuda" if device.on_gpu(cfg.trainer.accelerator) else "cpu")
    bundle = bundle_of(generator)
    assert bundle is not None
    sensors = list(cfg.task.sensors)
    if bundle.sensors != sensors or bundle.sample_rate != cfg.sample_rate:
        raise CheckpointError(
            f"{model} takes {', '.join(bundle.sensors)} at {bundle.sample_rate} Hz, but the task gives "
            f"{', '.join(sensors)} at {cfg.sample_rate} Hz: choose its recipe and sample_rate"
        )
    datamodule = build_datamodule(cfg)
    datamodule.setup("test" if split == "test" else "validate")
    shown = datamodule.test_split if split == "test" else split
    loader = datamodule.whole_dataloader(shown)
    samples = SampleWriter(output / "samples", cfg.trainer.samples, cfg.sample_rate)
    utterances = Utterances(datamodule.rows(shown), cfg.sample_rate)
    torch.manual_seed(cfg.seed)
    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate) as scorer:
        scores = evaluate_generator(generator, loader, scorer, sensors, on_item=samples, describe=utterances)
    title = f"{model} (step {bundle.training.get('step')}) on the {shown} files"
    conclude(utterances.complete(scores), group_by, output, title)
    if cfg.trainer.samples:
        print(f"samples:       {output / 'samples'}")


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
