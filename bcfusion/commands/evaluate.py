"""``bcfusion evaluate``: score a trained generator, or folders of enhanced files, together with the input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import evaluate_folders, evaluate_scores, evaluate_sets, exit_status
from bcfusion.commands.shared.evaluate_output import (
    Settings,
    hydra_directory,
    parse_settings,
    timed_folder,
    write_results,
)
from bcfusion.commands.shared.hydra_app import record_composition, run
from bcfusion.commands.shared.model_choice import TRUST_OPTION, chosen_model, label_of
from bcfusion.commands.shared.recorded import recorded_for_evaluation, require_of_evaluation
from bcfusion.configuration.overrides import merge_overrides
from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.files import write_text
from bcfusion.run.description import find_bundle, read_description
from bcfusion.run.fetching import repository_of
from bcfusion.run.layout import RunDir
from bcfusion.startup import loading

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bcfusion.data.loading.datamodule import SpeechDataModule
    from bcfusion.evaluation.utterances import Utterances

HELP = """\
usage: bcfusion evaluate MODEL [split=NAME] [steps=N] [group_by=NAME,...] [key=value ...] [--trust-code] [hydra options]
       bcfusion evaluate --enhanced DIR --reference DIR [--input DIR] [--name NAME] [group_by=NAME,...] [key=value ...]
       bcfusion evaluate --scores NAME=CSV [NAME=CSV ...] [group_by=NAME,...] [metrics=[NAME,...]]
       bcfusion evaluate --sets NAME=CSV [NAME=CSV ...] [--published CSV] [metrics=[NAME,...]]

Score a run, bundle, checkpoint, a model by its name or hf:OWNER/NAME on whole files. The settings are those that the
model was trained with; key=value changes those of data and metrics. steps=N is for a model of objective=flow or bridge.
Of a run directory the best checkpoint is evaluated, never the last one.

Or score files that any other program has enhanced: they are matched by their path below the folders, without suffix,
and resampled to the rate of the references (or to sample_rate=HZ). Give --enhanced several times to compare systems,
each with its --name. Lengths that differ by no more than --tolerance SECONDS (0.1) are cut to the shorter one.

Or join scores that earlier evaluations wrote: the folds of a cross-validation, listed under one NAME, are one system.
With --sets each NAME is a test set with its own input, such as a sensor: one table has them all, and beside them the
figures that others have published, from a CSV with the columns set, system, source and one for each metric.

examples:
  bcfusion evaluate runs/bone_to_air/seanet/TIME
  bcfusion evaluate RUN data=folder data.root=/data/speech split=valid
  bcfusion evaluate RUN steps=1                                         of a flow or bridge, in one step
  bcfusion evaluate RUN trainer.max_test_items=20                       20 utterances, evenly spread
  bcfusion evaluate RUN 'metrics=[pesq_wb,stoi,lsd]' group_by=speaker,snr
  bcfusion evaluate fusion data.evaluation_body_gain=-10                a body sensor that is 10 dB too quiet
  bcfusion evaluate RUN data=pairs data.body=/data/throat data.air=/data/air degradation=none
  bcfusion evaluate RUN/checkpoints/best-stoi.ckpt
  bcfusion evaluate throat data=pairs data.body=/data/throat data.air=/data/air     a model by its name
  bcfusion evaluate --enhanced theirs/ --reference clean/ --input noisy/ --name Theirs 'metrics=[pesq_wb,stoi]'
  bcfusion evaluate --scores ours=fold1/scores.csv ours=fold2/scores.csv 'metrics=[pesq_wb,stoi]'
  bcfusion evaluate --sets throat=t/scores.csv forehead=f/scores.csv --published paper.csv

It prints the means of every system with 95 % bootstrap intervals, and writes to RUN/evaluation/TIME, or to the same
place in an imported bundle, of everything else to runs/evaluation/TIME (output=DIR changes it): scores.csv and
scores.parquet (each utterance), scores.md and scores.tex (tables), summary.csv (count, mean, median, quartiles,
interval), spread.png, snr.png (with group_by=snr), and, of a model, samples/ and evaluation.json (what was evaluated).
group_by= takes speaker, corpus and snr.
"""


def main(argv: list[str]) -> int:
    """Run the verb; return the exit status."""
    for option in {"-m", "--multirun"}.intersection(argv):
        raise ConfigError([f"{option}: evaluate cannot sweep: run it once per value, each with its own output=DIR"])
    if evaluate_sets.is_requested(argv):
        return evaluate_sets.main(argv)
    if evaluate_scores.is_requested(argv):
        return evaluate_scores.main(argv)
    if evaluate_folders.is_requested(argv):
        return evaluate_folders.main(argv)
    trust_code = TRUST_OPTION in argv
    argv = [argument for argument in argv if argument != TRUST_OPTION]
    if not argv or argv[0].startswith("-") or ("=" in argv[0] and not Path(argv[0]).exists()):
        raise CheckpointError(
            "evaluate: name a model first: a run directory, a bundle, a .ckpt, a name that bcfusion models lists or "
            "hf:OWNER/NAME; or --enhanced DIR --reference DIR\n"
            "as in: bcfusion evaluate runs/bone_to_air/seanet/TIME"
        )
    # what does not exist is reported when it is loaded, after typing mistakes
    model = chosen_model(argv[0], missing_ok=True, trust_code=trust_code)
    settings, overrides = parse_settings(argv[1:])
    output = settings.output or timed_folder(_home_of_results(model))
    split = "test" if settings.split is None else settings.split
    if split not in ("valid", "test"):
        raise ConfigError([f"split: must be valid or test, not {split}"])
    require_of_evaluation(overrides)
    other = "trainer.max_valid_items" if split == "test" else "trainer.max_test_items"
    if any(each.lstrip("+").startswith(f"{other}=") for each in overrides):
        raise ConfigError([f"{other}: has no effect on the {split} files; theirs is trainer.max_{split}_items"])
    recorded = recorded_for_evaluation(model)
    limit = f"trainer.max_{split}_items"  # those of the run concern the run alone
    limited = limit if any(each.lstrip("+").startswith(f"{limit}=") for each in overrides) else None
    label = label_of(argv[0], model)
    run(
        lambda cfg: _task(cfg, model, label, split, output, settings, limited, overrides, trust_code),
        [*merge_overrides(recorded, overrides), hydra_directory(output)],
        module_file=__file__,
        verb="evaluate",
        recorded=recorded,
    )
    return 0


def _home_of_results(model: Path) -> Path:
    """Return the run that a model belongs to, or an imported bundle itself, so that compare finds its scores; else
    the folder of all runs."""
    if repository_of(model) is not None:
        return Path("runs")
    if (run_dir := RunDir.around(model)) is not None:
        return run_dir.path
    imported = find_bundle(model) == model and "imported" in read_description(model).training
    return model if imported else Path("runs")


def _task(
    cfg: DictConfig,
    model: Path,
    label: str,
    split: str,
    output: Path,
    settings: Settings,
    limited: str | None,
    overrides: Sequence[str],
    trust_code: bool,
) -> None:
    """Evaluate a model, print the tables, and write scores and samples.

    Args:
        cfg: composed configuration.
        model: a run, bundle or checkpoint.
        label: what to call it.
        split: to evaluate.
        output: folder of the results.
        settings: of the verb: columns of further tables, and steps of the model.
        limited: key of the number of utterances; None: all of them.
        overrides: as typed.
        trust_code: see :func:`bcfusion.load_generator`.
    """
    with loading():
        from bcfusion.configuration.check import verify_or_raise

    verify_or_raise(cfg, training=False)
    with loading():
        from omegaconf import OmegaConf

        from bcfusion.commands.shared.model_evaluation import evaluate_model, load_task_model
        from bcfusion.evaluation.utterances import Utterances
        from bcfusion.report.samples import SampleWriter
        from bcfusion.run.bundle import bundle_of
        from bcfusion.training.assemble import build_datamodule

    generator = load_task_model(cfg, model, steps=settings.steps, trust_code=trust_code)
    bundle = bundle_of(generator)
    assert bundle is not None  # a loaded model has one
    datamodule = build_datamodule(cfg)
    limit = None if limited is None else OmegaConf.select(cfg, limited)
    utterances = Utterances.of_split(datamodule, split, limit)
    if seen := sum(bundle.adapted_to(row.paths.values()) for row in utterances.rows.values()):
        print(
            f"warning: {label} was adapted to {seen} of the {len(utterances.rows)} files: their scores are too good; "
            "its report.md has those of recordings that were held out"
        )
    samples = SampleWriter(output / "samples", cfg.trainer.samples, cfg.sample_rate)
    scores = evaluate_model(cfg, generator, utterances, samples)
    step = bundle.training.get("step")
    at_step = "" if step is None else f" (step {step})"
    gain = datamodule.reader.evaluation_gain
    mismatch = f", with {gain:+g} dB on the body sensor" if gain else ""
    steps = settings.steps
    in_steps = "" if steps is None else f" in {steps} step{'s' * (steps != 1)}"
    title = f"{label}{at_step}{in_steps} on {_files(utterances, datamodule)}{mismatch}"
    write_results(scores, settings.group_by, output, title)
    record_composition(cfg, output)
    record = {"model": label, "step": step, "split": split, "steps": steps, "overrides": list(overrides)}
    write_text(RunDir(output).evaluation_record, json.dumps(record, indent=2) + "\n")
    for item in samples.left_out:
        print(f"warning: no sample of {item}: its output is no sound (NaN or infinity)")
    if samples.pictures:
        print(f"samples:       {samples.directory}")


def _files(utterances: Utterances, datamodule: SpeechDataModule) -> str:
    used, total = len(utterances.rows), len(datamodule.rows(utterances.split))
    return f"the {utterances.split} files" if used == total else f"{used} of {total} {utterances.split} files"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
