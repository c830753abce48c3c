"""``bcfusion evaluate``: a trained generator on whole files, every metric, the input beside it."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.hydra_app import run
from bcfusion.commands.recorded import recorded_overrides
from bcfusion.config import merge_overrides
from bcfusion.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = """\
usage: bcfusion evaluate MODEL [split=NAME] [key=value ...] [hydra options]

Score a run, bundle or checkpoint on whole files. It starts from the settings that the model was trained with; what you
type wins. A run directory is evaluated by its best checkpoint, never by its last.

examples:
  bcfusion evaluate runs/bone_to_air/seanet/TIME
  bcfusion evaluate RUN data=folder data.root=/data/speech split=valid
  bcfusion evaluate RUN 'metrics=[pesq_wb,stoi,lsd]'
  bcfusion evaluate RUN data=pairs data.body=/data/throat data.air=/data/air degradation=none
  bcfusion evaluate RUN/checkpoints/best-stoi.ckpt

It prints a table and writes scores.csv, scores.md and samples/ into RUN/evaluation/TIME (output=DIR changes it).
"""

# Settings of training that mean nothing, or something else, in an evaluation.
TRAINING_ONLY = ("resume", "init_from", "init_discriminators", "debug", "budget", "output_root")


def main(argv: list[str]) -> int:
    """Runs the verb; returns the exit status."""
    if not argv or "=" in argv[0] or argv[0].startswith("-"):
        raise CheckpointError(
            "evaluate: name a model first: a run directory, a bundle or a .ckpt\n"
            "as in: bcfusion evaluate runs/bone_to_air/seanet/TIME"
        )
    model = Path(argv[0])
    given, settings = _own_settings(argv[1:])
    recorded = [
        override
        for override in recorded_overrides(model)
        if override.lstrip("+~").partition("=")[0].split(".")[0] not in TRAINING_ONLY
    ]
    output = Path(settings.get("output", _output(model)))
    overrides = [*merge_overrides(recorded, given), "hydra.run.dir='{}'".format(str(output).replace("'", "\\'"))]
    split = settings.get("split", "test")
    if split not in ("valid", "test"):
        raise ConfigError([f"split: must be valid or test, not {split}"])
    run(
        lambda cfg: task(cfg, model, split, output),
        overrides,
        config_name="train",
        module_file=__file__,
        verb="evaluate",
    )
    return 0


def _own_settings(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separates ``split=`` and ``output=`` from the overrides of the configuration."""
    own = {}
    given = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if equals and key in ("split", "output"):
            own[key] = value
        else:
            given.append(argument)
    return given, own


def _output(model: Path) -> str:
    run_dir = next((folder for folder in (model, *model.parents[:2]) if (folder / "overrides.yaml").is_file()), None)
    parent = run_dir / "evaluation" if run_dir is not None else Path("runs") / "evaluation"
    return str(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def task(cfg: DictConfig, model: Path, split: str, output: Path) -> None:
    """Evaluates, prints the table, and writes scores and samples."""
    from bcfusion.config_check import verify_or_raise

    verify_or_raise(cfg, training=False)
    import torch

    from bcfusion.config import build
    from bcfusion.inference.bundle import bundle_of, load_generator
    from bcfusion.inference.evaluate import evaluate_generator
    from bcfusion.metrics.pool import Scorer
    from bcfusion.report.table import markdown_table
    from bcfusion.training import device
    from bcfusion.training.assemble import build_datamodule
    from bcfusion.training.closing import SampleWriter, print_scores
    from bcfusion.training.record import write_text

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
    torch.manual_seed(cfg.seed)
    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate) as scorer:
        scores = evaluate_generator(generator, loader, scorer, sensors, on_item=samples)
    scores.write_csv(output / "scores.csv")
    means = {system: scores.mean(system) for system in scores.systems}
    write_text(output / "scores.md", markdown_table(means, scores.higher_is_better) + "\n")
    print_scores(scores, f"{model} (step {bundle.training.get('step')}) on the {shown} files:")
    print(f"per utterance: {output / 'scores.csv'}\nsamples:       {output / 'samples'}")


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
