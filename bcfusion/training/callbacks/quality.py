"""Scores validations by quality metrics, keeps the best checkpoints, logs sounds and pictures of fixed items."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from bcfusion.evaluation.evaluate import input_signals
from bcfusion.evaluation.pool import Aside, Scorer
from bcfusion.evaluation.scores import Scores
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.report.spectrogram import thumbnail_png
from bcfusion.training.callbacks.checkpointing import Checkpointing
from bcfusion.training.guard import LARGEST_PEAK, Diverged, output_problem
from bcfusion.training.loggers import TensorBoardLogger
from bcfusion.training.module import SpeechModule
from bcfusion.training.ranks import gathered
from bcfusion.training.selection import Selection
from bcfusion.training.trackers.tracker import Tracker
from bcfusion.training.writing import WriteFailed, writing

SHORT_NAMES = {"pesq_wb": "pesq", "pesq_nb": "pesq"}


def best_name(metric: str) -> str:
    """Return the name of the checkpoint that is best by one metric: ``best-pesq`` for ``pesq_wb``."""
    return f"best-{SHORT_NAMES.get(metric, metric)}"


class Quality(Callback):
    """Computes the metrics of a validation in worker processes while the network works on the next item.

    The same processes draw the pictures, while training goes on: each is logged at its validation's step when a later
    training step ends or the trainer does.

    Args:
        scorer: computes the metrics; kept between validations.
        selection: selects ``best.ckpt``.
        keep_best: metrics with a best checkpoint of their own.
        checkpointing: writes the checkpoints.
        sensors: names of the input channels.
        sample_rate: in Hz.
        samples: number of validation items, the first ones, that are logged as sound and picture.
        directory: where the tables per utterance go.
        hyperparameters: flat plain values for TensorBoard's HPARAMS.
        resumed: the ``quality`` entry of the checkpoint of a resumed run.

    Attributes:
        best: best score so far by checkpoint name; without ``best`` if no validation had a finite score.
        best_values: metric means of ``best.ckpt``.
        best_step: its step; -1 without any.
        validated_step: step of the latest validation; -1 without any.
        latest: metric means of the latest validation.
        input_means: metric means of the unprocessed input, measured once per session.
    """

    def __init__(
        self,
        scorer: Scorer,
        selection: Selection,
        keep_best: Sequence[str],
        checkpointing: Checkpointing,
        sensors: Sequence[str],
        sample_rate: int,
        samples: int,
        directory: Path,
        hyperparameters: dict[str, Any],
        resumed: dict[str, Any] | None = None,
    ) -> None:
        self._scorer = scorer
        self._selection = selection
        self._keep_best = tuple(keep_best)
        self._checkpointing = checkpointing
        self._sensors = tuple(sensors)
        self._sample_rate = sample_rate
        self._samples = samples
        self._directory = directory
        self._hyperparameters = hyperparameters
        resumed = resumed or {}
        self.best: dict[str, float] = dict(resumed.get("best", {}))
        self.best_values: dict[str, float] = dict(resumed.get("best_values", {}))
        self.best_step: int = int(resumed.get("best_step", -1))
        self.validated_step: int = int(resumed.get("validated_step", -1))
        self.latest: dict[str, float] = dict(resumed.get("latest", {}))
        self.input_means: dict[str, float] = {}
        self._inputs: dict[str, dict[str, float]] = {}  # means by system
        self._registered = bool(self.best)  # by an earlier session
        self._shown: list[tuple[str, dict[str, np.ndarray]]] = []  # of this validation: item and signals, to be drawn
        self._drawing: deque[tuple[str, int, Aside[bytes]]] = deque()  # tag, step and picture, not logged yet
        self._began = 0.0
        checkpointing.quality_state = self.state

    def state(self) -> dict[str, Any]:
        """Return the best and latest scores, as plain containers for the checkpoint."""
        return {
            "quality": {
                "best": dict(self.best),
                "best_values": dict(self.best_values),
                "best_step": self.best_step,
                "validated_step": self.validated_step,
                "latest": dict(self.latest),
            }
        }

    @property
    def score(self) -> float | None:
        """Score of the latest validation by the selection; None if one of its metric values is not finite."""
        return None if self._selection.unusable(self.latest) else self._selection.score(self.latest)

    @property
    def best_score(self) -> float:
        """Best score so far; without any, that of metric values that could not be computed. Always finite."""
        return self.best.get("best", self._selection.score({}))

    def summary(self) -> str:
        """Return the latest validation in a few words: the value, and that of the input in brackets."""
        shown = [name for name in self.latest if name in ("pesq_wb", "stoi", "lsd")] or list(self.latest)[:2]
        return " ".join(
            f"{name} {self.latest[name]:.3f}"
            + (f" (input {self.input_means[name]:.3f})" if name in self.input_means else "")
            for name in shown
        )

    # ---------------------------------------------------------------- hooks

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start from scratch, whatever an interrupted validation left."""
        self._scorer.reset()
        self._diverged: tuple[str, str] | None = None
        self._shown = []
        self._cudnn_benchmark = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False  # whole files: cuDNN would time every new length
        self._began = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Submit the estimates to the metric workers; at the first validation of a session the inputs too."""
        assert isinstance(module, SpeechModule)
        estimates = outputs.cpu().numpy()
        for position, item in enumerate(batch["ids"]):
            length = int(batch["lengths"][position])
            signals = {ENHANCED: estimates[position, 0, :length]}
            largest = LARGEST_PEAK if module.step else math.inf  # before training anything finite may come out
            problem = output_problem(signals[ENHANCED], largest)
            if problem is not None:
                self._diverged = self._diverged or (item, problem)
                if trainer.world_size == 1:
                    raise Diverged(module.step, *self._diverged, self.best_step)
                continue  # several ranks end together, when all have validated their items
            inputs = input_signals(batch["inputs"][position], length, self._sensors)
            if not self.input_means:
                signals.update(inputs)
            target = batch["target"][position, 0, :length].cpu().numpy()
            self._scorer.submit(item, signals, target)
            if trainer.is_global_zero and len(self._shown) < self._samples:
                shown = {**inputs, ENHANCED: signals[ENHANCED], "target": target}
                with writing(self._directory.parent, self._checkpointing.what_now):
                    self._log_sounds(trainer, f"sample_{len(self._shown)}", shown, module.step)
                # copied, as for the scorer
                self._shown.append((item, {name: np.array(signal) for name, signal in shown.items()}))

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Collect and log the scores; write the checkpoints that are the best by this validation."""
        assert isinstance(module, SpeechModule)
        diverged = next(filter(None, gathered(self._diverged)), None)
        if diverged is not None:
            raise Diverged(module.step, *diverged, self.best_step)
        scores = Scores.merged(gathered(self._scorer.collect()))
        tally = getattr(trainer.val_dataloaders, "tally", None)
        if tally is not None and trainer.world_size > 1:
            tally.join(gathered(tally.paths))
        self.latest = scores.mean(ENHANCED)
        systems = [system for system in scores.systems if system != ENHANCED]
        if systems:
            self._inputs = {system: scores.mean(system) for system in systems}
            self.input_means = self._inputs[systems[-1]]
        self.validated_step = module.step
        for scheduler in module.schedulers.values():
            if hasattr(scheduler, "validated"):  # a schedule that follows the quality, on every rank alike
                scheduler.validated(self.score)
        improved = self._improved(module.step)
        if trainer.is_global_zero:
            self._warn_if_unusable(scores, module.step)
            values = {f"valid/{name}": value for name, value in self.latest.items()}
            values["valid/selection"] = self._selection.score(self.latest)
            values["valid/skipped"] = float(sum(sum(c.values()) for c in scores.skipped(ENHANCED).values()))
            values["rate/validation_seconds"] = time.monotonic() - self._began
            for system, means in self._inputs.items():  # at every validation: a single point is no line in a chart
                tag = "valid_input" if len(self._inputs) == 1 else f"valid_{system}"
                values.update({f"{tag}/{name}": value for name, value in means.items()})
            with writing(self._directory, self._checkpointing.what_now):
                scores.write_csv(self._directory / f"valid-{module.step:07d}.csv")
                self._log(trainer, values, module.step, "best" in improved)
        if trainer.state.fn == TrainerFn.VALIDATING and not self._checkpointing.run.last.is_file() and not self.best:
            improved = ["best", *improved]  # nothing is trained and there is no other candidate
        self._checkpointing.save_best(improved)
        self._draw(trainer, module.step)
        torch.backends.cudnn.benchmark = self._cudnn_benchmark

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Log the pictures of the latest validation that are drawn by now."""
        self._log_pictures(trainer, wait=False)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Log the pictures that are left."""
        self._log_pictures(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Log the pictures that are left, unless that is what has failed or would keep a second Ctrl-C waiting."""
        if isinstance(exception, Exception) and not isinstance(exception, WriteFailed):
            with suppress(WriteFailed):
                self._log_pictures(trainer)

    # ---------------------------------------------------------------- parts

    def _improved(self, step: int) -> list[str]:
        candidates = {} if self.score is None else {"best": self.score}
        for metric in self._keep_best:
            if metric in self.latest and math.isfinite(self.latest[metric]):
                sign = 1.0 if self._scorer.higher_is_better[metric] else -1.0
                candidates[best_name(metric)] = sign * self.latest[metric]
        improved = [name for name, score in candidates.items() if score > self.best.get(name, -math.inf)]
        self.best.update({name: candidates[name] for name in improved})
        if "best" in improved:
            self.best_values, self.best_step = dict(self.latest), step
        return improved

    def _warn_if_unusable(self, scores: Scores, step: int) -> None:
        """Say which values are missing and why, if this validation cannot be the best for that reason."""
        names = self._selection.unusable(self.latest)
        if names:
            reasons = Counter(r for name in names for r in scores.skipped(ENHANCED).get(name, Counter()).elements())
            why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
            print(
                f"step {step} | warning: no {', '.join(names)} on any of {scores.utterances} validation files{why}: "
                "selection needs it, so this step cannot be the best",
                file=sys.stderr,
            )

    def _log(self, trainer: Trainer, values: dict[str, float], step: int, improved: bool) -> None:
        bests = {f"best/{name}": value for name, value in self.best_values.items()}
        bests["best/selection"] = self.best_score
        for logger in trainer.loggers:
            if not self._registered:  # once per run; TensorBoard's HPARAMS reads the metrics from the scalars best/...
                logger.log_hyperparams(self._hyperparameters)
                if isinstance(logger, TensorBoardLogger):
                    logger.log_charts(self.latest)
            logger.log_metrics({**values, **(bests if improved else {})}, step=step)
        self._registered = True

    def _log_sounds(self, trainer: Trainer, group: str, signals: dict[str, np.ndarray], step: int) -> None:
        for logger in _showing(trainer):
            # input and target do not change; a tracker may have joined the run in this session
            first = not self.input_means if isinstance(logger, Tracker) else not self._registered
            for name, signal in signals.items():
                if name == ENHANCED or first:
                    logger.log_sound(f"{group}/{name}", signal, step, self._sample_rate)

    def _draw(self, trainer: Trainer, step: int) -> None:
        """Have the pictures of this validation drawn, after its scores: they would keep training waiting for these."""
        self._log_pictures(trainer)  # of the validation before: they were drawn before these scores
        loggers = _showing(trainer)
        for index, (item, signals) in enumerate(self._shown if loggers else ()):
            draw = partial(thumbnail_png, signals, self._sample_rate, f"{item}, step {step}")
            self._drawing.append((f"sample_{index}/spectrogram", step, self._scorer.aside(draw)))
        self._shown = []
        if any(isinstance(logger, Tracker) for logger in loggers):
            self._log_pictures(trainer)  # a tracker takes one row after the other

    def _log_pictures(self, trainer: Trainer, wait: bool = True) -> None:
        """Log the pictures that are drawn, in their order; with ``wait`` all of them."""
        while self._drawing and (wait or self._drawing[0][2].done()):
            tag, step, picture = self._drawing.popleft()
            png = picture.result()
            with writing(self._directory.parent, self._checkpointing.what_now):
                for logger in _showing(trainer):
                    logger.log_picture(tag, png, step)


def _showing(trainer: Trainer) -> list[TensorBoardLogger | Tracker]:
    """Return the loggers that take sounds and pictures."""
    return [one for one in trainer.loggers if isinstance(one, TensorBoardLogger | Tracker)]
