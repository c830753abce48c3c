"""The rehearsal of a run: its corpus is read, a step trained, an utterance validated. Nothing is written and kept."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from bcfusion.configuration.compose import build
from bcfusion.configuration.construction import buildable, refusal
from bcfusion.configuration.later import later
from bcfusion.configuration.values import at, resolved, without_refused
from bcfusion.contracts import SPLITS, Batch
from bcfusion.data.corpora.made_once import MadeOnce
from bcfusion.data.corpora.table import columns_of
from bcfusion.data.loading.collate import collate
from bcfusion.data.loading.datamodule import SpeechDataModule
from bcfusion.data.loading.segments import EvalItems
from bcfusion.errors import BcfusionError, ConfigError
from bcfusion.evaluation.evaluate import enhance_item
from bcfusion.evaluation.pool import Scorer
from bcfusion.evaluation.scores import skipped_cell
from bcfusion.probe import evaluating
from bcfusion.training import device
from bcfusion.training.assemble import build_datamodule, build_module
from bcfusion.training.initial_state import load_initial_weights
from bcfusion.training.limits import check_batch_of, check_devices, warn_user
from bcfusion.training.module import SpeechModule
from bcfusion.training.pace import Steps, in_words, now, timed, within_budget

__all__ = ["Rehearsal", "rehearse"]

#: an utterance of about this length is validated: shorter ones would tell more of the first call than of the network
TYPICAL_SECONDS = 3.0
#: a step that is expected to take longer is not trained: the expectation is reported
LONGEST_STEP_SECONDS = 120.0


@dataclass
class Rehearsal:
    """What a rehearsal has found.

    Attributes:
        facts: values by name, in the order of a table.
        problems: what would end the run, one line each.
    """

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def attempt(self, part: str) -> Iterator[None]:
        """Turn an error within the block into problems.

        Args:
            part: what was tried, for errors that are not meant for users.
        """
        try:
            yield
        except ConfigError as error:
            self.problems += error.problems
        except BcfusionError as error:
            self.problems += str(error).splitlines()
        except (MemoryError, torch.OutOfMemoryError) as error:
            text = (str(error).splitlines() or ["out of memory"])[0]
            self.problems.append(f"{part}: {text}; lower data.batch_size or data.segment_seconds")
        except Exception as error:  # a network, loss or corpus of the user's own may fail in any way
            self.problems += refusal(part, error)


def rehearse(cfg: DictConfig, known: Sequence[str] = ()) -> Rehearsal:
    """Read the corpus of a run, train a step on one batch, validate one utterance, and estimate what the run can do.

    The step is one in which the discriminators have joined and every ramp has ended; another one, on a single crop, is
    the first step of the run. One process on one device is used, whatever ``trainer.devices`` says. Seeds are those of
    the run. Passes over the training set for statistics (``Fitted``, ``StartsFromStatistics``) and ``trainer.compile``
    are left out.

    Args:
        cfg: composed configuration.
        known: its problems, as :func:`bcfusion.configuration.check.verify` finds them. With any, the corpus is still
            read, if it can be built, and devices are looked for; nothing else is tried.
    """
    rehearsal = Rehearsal()
    if not any(problem.startswith(("trainer.", "trainer:")) for problem in known):
        with rehearsal.attempt("trainer"):
            device.configure(cfg.trainer)
            warn_user(check_devices(cfg.trainer))
    if known:
        _read_corpus(cfg, known, rehearsal)
        return rehearsal
    seed_everything(cfg.seed, workers=False, verbose=False)
    with rehearsal.attempt("data"):
        datamodule = build_datamodule(cfg)
        _describe_data(datamodule, rehearsal)
        if not rehearsal.problems:
            _try_networks(cfg, datamodule, rehearsal)
    rehearsal.problems = list(dict.fromkeys(rehearsal.problems))
    return rehearsal


def _read_corpus(cfg: DictConfig, known: Sequence[str], rehearsal: Rehearsal) -> None:
    """Find what is wrong with the corpus alone, though other parts of the configuration are wrong."""
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    node = at(without_refused(resolved(cfg)[0], written, known)[0], "data.corpus")
    if not buildable("data.corpus", node, list(known)):
        return
    with rehearsal.attempt("data.corpus"):
        corpus = build(node)
        if isinstance(corpus, MadeOnce):
            return  # it would be synthesised, which cannot go wrong
        for split in SPLITS:
            if split != "train" or not hasattr(corpus, "first_rows"):  # streamed shards do not list that split
                with rehearsal.attempt("data.corpus"):
                    corpus.rows(split)
    rehearsal.problems = list(dict.fromkeys(rehearsal.problems))


def _describe_data(datamodule: SpeechDataModule, rehearsal: Rehearsal) -> None:
    for split in ("train", "valid"):
        with rehearsal.attempt("data"):
            rehearsal.facts[split] = datamodule.contents(split)
    with rehearsal.attempt("data"):
        same = datamodule.test_split == "valid"
        rehearsal.facts["test"] = "none: valid is used" if same else datamodule.contents("test")


def _try_networks(cfg: DictConfig, datamodule: SpeechDataModule, rehearsal: Rehearsal) -> None:
    facts = rehearsal.facts
    facts["device"] = _device_name(cfg)
    module = None
    with rehearsal.attempt("the networks"):
        module, _ = build_module(cfg)
        module.complete_batch = datamodule.on_after_batch_transfer
        if cfg.init_from is not None:
            load_initial_weights(module, cfg)
    if module is None or rehearsal.problems:
        return
    trains = module.trainable and cfg.trainer.max_steps != 0
    steps = None
    with rehearsal.attempt("data.batch_size"):
        warn_user(check_batch_of(cfg, module, datamodule))
    if rehearsal.problems:
        return
    if trains:
        with rehearsal.attempt("the training step"):
            steps = _try_training(cfg, datamodule, module, rehearsal)
    else:
        facts["step"] = "none: it is evaluated as it is"
    with rehearsal.attempt("the validation"):
        validation, closing = _try_validation(cfg, datamodule, module, rehearsal)
        if steps is not None and not rehearsal.problems:
            facts["budget"] = within_budget(cfg, steps, validation, closing)


def _device_name(cfg: DictConfig) -> str:
    threads = torch.get_num_threads()
    if not device.on_gpu(cfg.trainer.accelerator):
        name = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "gpu"
    several = cfg.trainer.devices not in ("auto", 1, "1") or cfg.trainer.num_nodes > 1
    asked = f" (of trainer.devices={cfg.trainer.devices}, trainer.num_nodes={cfg.trainer.num_nodes})" if several else ""
    return f"{name}, one process{asked}"


# ---------------------------------------------------------------- training


def _try_training(cfg: DictConfig, datamodule: SpeechDataModule, module: SpeechModule, rehearsal: Rehearsal) -> Steps:
    """Train on one crop, then on whole batches before and after the discriminators have joined."""
    joins = int(cfg.adversarial.start_step) * module.optimization.accumulate if cfg.discriminators else 0
    one, read_one = timed(lambda: datamodule.sample_batch(1))
    alone = _fit(cfg, module, one, 0)
    read = read_one * datamodule.batch_size
    early = late = alone * datamodule.batch_size
    how = "estimated from one crop"
    if read + early <= LONGEST_STEP_SECONDS:
        how = "measured"
        batch, read = timed(lambda: datamodule.sample_batch(datamodule.batch_size))
        early = _fit(cfg, module, batch, 0) if joins else 0.0
        late = _fit(cfg, module, batch, _late_step(cfg, module))
    if module.critics:
        sample = batch if how == "measured" else one
        learning = _fit_with_lessons(cfg, module, sample)
        late = learning if how == "measured" else max(late, learning * datamodule.batch_size)
    skipped = [network for network, count in module.guard.skipped.items() if count]
    if skipped:
        rehearsal.problems.append(f"the training step: the gradient of the {' and the '.join(skipped)} is not finite")
    workers = datamodule.workers

    def whole(trained: float) -> float:
        return trained + read if workers == 0 else max(trained, read / workers)

    steps = Steps(whole(early), whole(late), joins)
    before = f"{in_words(steps.early)} before step {joins}, then " if joins else ""
    reading = "in the training process" if workers == 0 else f"by {workers} worker{'s' if workers > 1 else ''}"
    rehearsal.facts["step"] = (
        f"{before}{in_words(steps.late)}, {how}; {in_words(read)} to read {datamodule.batch_size} crops of "
        f"{datamodule.segment_seconds:g} s {reading}"
    )
    return steps


def _fit_with_lessons(cfg: DictConfig, module: SpeechModule, batch: Batch) -> float:
    """Train on a batch while the critics learn from the one before; return the seconds without waiting for scores.

    In the steps before, no batch was old enough. In a run the scores are there; here their processes have just started.
    """
    delays = {name: critic.delay for name, critic in module.critics.items()}
    for critic in module.critics.values():
        critic.load_state({"pending": [], "history": []})
        critic.delay = 1
    step = _late_step(cfg, module)
    _fit(cfg, module, batch, step)
    module.take_log()
    seconds = _fit(cfg, module, batch, step)
    log = module.take_log()
    for name, critic in module.critics.items():
        seconds -= log.get(f"critic/{name}/waiting", 0.0)
        critic.delay = delays[name]
    return max(seconds, 0.0)


def _late_step(cfg: DictConfig, module: SpeechModule) -> int:
    """Return an optimiser step at which all networks learn and all ramps have ended."""
    critics = [critic.start_step + critic.delay + critic.ramp_steps for critic in module.critics.values()]
    if not cfg.discriminators:
        return max([1, *critics])
    both = math.lcm(int(cfg.adversarial.interval), int(cfg.adversarial.generator_interval))
    start = int(cfg.adversarial.start_step)
    heard = start + int(later(cfg, "adversarial.head_start"))
    late = max([heard + max(int(cfg.adversarial.ramp_steps), 1), *critics])
    return start + math.ceil((late - start) / both) * both


def _fit(cfg: DictConfig, module: SpeechModule, batch: Batch, step: int) -> float:
    """Train on a batch as at an optimiser step; return the seconds that it takes."""
    accumulate = module.optimization.accumulate
    module.step = step * accumulate + accumulate - 1  # the batch with which the optimisers step
    times = 2 if device.on_gpu(cfg.trainer.accelerator) else 1  # there the first batch of a size takes longer
    watch = _Watch()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about settings that suit two steps and not a run
        trainer = Trainer(
            accelerator=cfg.trainer.accelerator,
            devices=1,
            precision=cfg.trainer.precision,
            max_epochs=1,
            limit_train_batches=times,
            limit_val_batches=0,
            logger=False,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=scratch,
        )
        batches: Any = [batch] * times  # to Lightning a plain list is several loaders; to PyTorch it is a dataset
        try:
            trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None, collate_fn=lambda one: one))
        finally:
            module.close()  # a fault ends the trainer without its last hooks
    return watch.seconds


class _Watch(Callback):
    """Measures the last training step."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = now()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.seconds = now() - self._began
        assert isinstance(module, SpeechModule)
        module.step -= 1  # the same step again


# ---------------------------------------------------------------- validation


def _try_validation(
    cfg: DictConfig, datamodule: SpeechDataModule, module: SpeechModule, rehearsal: Rehearsal
) -> tuple[float, float]:
    """Enhance and score one utterance; return the seconds of a validation and of the closing evaluation."""
    rows = datamodule.rows("valid")
    durations = columns_of(rows).duration
    long_enough = np.where(durations >= TYPICAL_SECONDS, durations, np.inf)
    row = rows[int(long_enough.argmin() if np.isfinite(long_enough).any() else durations.argmax())]
    item = collate([EvalItems([row], datamodule.reader)[0]])
    generator = module.best_generator
    if device.on_gpu(cfg.trainer.accelerator) and torch.cuda.is_available():
        generator = generator.cuda()
    with evaluating(generator):
        estimate, enhancing = timed(lambda: enhance_item(generator, item["inputs"][0]))
    with Scorer({name: build(node) for name, node in cfg.metrics.items()}, cfg.sample_rate, workers=0) as scorer:

        def score() -> Any:
            scorer.submit(row.id, {"enhanced": estimate}, item["target"][0, 0].numpy())
            return scorer.collect()

        scores, scoring = timed(score)
    pace = (enhancing + scoring) / max(row.duration, 1e-3)
    validation = pace * datamodule.audio_seconds("valid", cfg.trainer.max_valid_items)
    rehearsal.facts["validation"] = (
        f"{in_words(enhancing)} to enhance and {in_words(scoring)} to score {row.duration:.1f} s of speech; about "
        f"{in_words(validation)} for all of it, every {cfg.trainer.validate_every} steps"
    )
    unscored = {name: next(iter(reasons)) for name, reasons in scores.skipped("enhanced").items()}
    if unscored:  # an untrained network gives noise or silence, which some metrics leave out
        rehearsal.facts["not scored"] = f"{skipped_cell(unscored)} ({row.id}, restored by the untrained network)"
    return validation, pace * datamodule.audio_seconds("test", cfg.trainer.max_test_items)
