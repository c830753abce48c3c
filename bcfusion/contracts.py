"""The contracts that hold the house together: what a batch, a network, a loss, a metric, a corpus and a simulator are.

Everything here is a Protocol or a plain container: a class of the user's own package fulfils it by having the right
attributes, without importing or inheriting from bcfusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:  # metrics and manifests are used in worker processes that never load torch
    import numpy as np
    import torch
    from torch import Tensor


class Batch(TypedDict, total=False):
    """What a data loader gives and a training step takes.

    inputs: ``(B, S, T)`` float32 in [-1, 1], sensors in the order of ``task.sensors``.
    target: ``(B, 1, T)`` clean air-conducted speech.
    lengths: ``(B,)`` int64, valid samples of each item; what lies behind is zero padding.
    ids: stable across epochs and runs.
    noise: ``(B, 1, T)``, only where the task adds noise.
    unreadable: paths that were replaced by another item because they could not be read.
    air: ``(B, 1, T)``; with ``pending`` it is what :mod:`bcfusion.data.simulation.device_simulation` completes on the
        training device. A training step never sees either.
    pending: for each item, the simulations that are left.
    """

    inputs: Tensor
    target: Tensor
    lengths: Tensor
    ids: list[str]
    noise: Tensor
    unreadable: list[str]
    air: Tensor
    pending: list[list[tuple[int, int, int, int | None]]]


class Judgement(NamedTuple):
    """What one sub-discriminator says of a waveform.

    logits: ``(B, ...)``, one score per receptive field. features: the activations of its hidden layers, first to last,
    without the input and without the logits.
    """

    logits: Tensor
    features: list[Tensor]


@runtime_checkable
class Generator(Protocol):
    """Restores speech: ``(B, S, T) -> (B, 1, T)``, or to a dict with key ``estimate`` and those of ``provides``.

    The output has the length of the input for any T of at least one sample; the network pads and trims inside.
    """

    sample_rate: int
    in_channels: int
    hop: int  #: samples; a streaming chunk is a multiple of it
    causal: bool
    delay: int | None  #: output sample n depends on no input sample after n + delay; None: on the whole file
    provides: tuple[str, ...]  #: keys of the output besides ``estimate``

    def __call__(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Restores a batch."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A generator that takes statistics from the training set before its first step (normalisation, codebooks).

    ``fit`` leaves what it finds in persistent buffers, written in place, and so in every checkpoint and bundle.
    ``training`` calls it once, where a run begins anew; see :class:`bcfusion.training.fitting.Fitting`.
    """

    def fit(self, batches: Iterable[Batch]) -> None:
        """Takes the statistics.

        Args:
            batches: each ``for`` over it is one pass over the training set, in crops as training has them; on the
                device of the generator, the same on every rank.
        """
        ...


@runtime_checkable
class Discriminator(Protocol):
    """Judges a waveform ``(B, 1, T)``: one Judgement for each sub-discriminator."""

    def __call__(self, waveform: Tensor) -> list[Judgement]:
        """Judges a batch."""
        ...


class Anchor(Protocol):
    """Where the gradients of the single losses are compared: the generator's output, or one of its parameters.

    The losses are computed on a leaf that is cut from the generator's graph, so that measuring a loss costs a pass
    through that loss alone, and the generator has ONE backward pass whatever the number of losses.
    """

    def gradient(self, loss: Tensor) -> Tensor:
        """Gradient of a scalar at the generator's output, ``(B, ...)`` float32; 0 where the loss does not depend on it.

        The graph of the loss stays, so that other losses can be measured that share parts of it.
        """
        ...

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norms ``(n,)`` of n gradients that :meth:`gradient` gave: float32, the same on every rank.

        At the output the sum over items of each item's norm, for a loss that is a mean over items the mean norm of the
        items' own gradients; at a parameter the norm of what the gradient comes to there. The mean over ranks. NaN
        where a gradient is not finite, on any rank.
        """
        ...


@runtime_checkable
class Balancer(Protocol):
    """Turns the weighted losses into one gradient of the generator."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> Mapping[str, float | Tensor]:
        """Runs the generator's backward pass: calls ``backward`` once, with the gradient at the generator's output.

        Args:
            losses: scalars by name. weights: at least one for each loss.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator.

        Returns:
            The share of each loss in the gradient, 0 to 1, for the log.
        """
        ...


@runtime_checkable
class AdversarialObjective(Protocol):
    """The game between generator and discriminators. Both losses are scalars.

    ``boundary`` is the logit between what the discriminators take for speech and what they take for an estimate.
    """

    boundary: float

    def discriminator(self, target_judgements: Sequence[Judgement], estimate_judgements: Sequence[Judgement]) -> Tensor:
        """What the discriminators minimise."""
        ...

    def generator(self, estimate_judgements: Sequence[Judgement]) -> Tensor:
        """What the generator minimises."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A quality measure of one utterance, computed in NumPy in a worker process.

    ``score`` returns one value for each name in ``names``, or raises :class:`Skip` with the reason.
    """

    names: tuple[str, ...]
    higher_is_better: Mapping[str, bool | None]  #: None: information only (a lag), never selected by

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Scores one utterance; both signals are ``(T,)``."""
        ...


@runtime_checkable
class ItemMetric(Metric, Protocol):
    """A metric that has to know WHICH utterance it scores: its transcript, what listeners said of it.

    Where a metric has ``score_item``, scoring calls that in place of ``score``.
    """

    def score_item(self, item_id: str, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Scores the utterance ``item_id`` of the corpus; otherwise as :meth:`Metric.score`."""
        ...


class Skip(Exception):
    """This utterance cannot be scored by this metric; the text is the reason, counted in the report."""


SPLITS = ("train", "valid", "test")  #: the parts of every corpus
UNKNOWN_SPEAKER = "unknown"  #: stands in ``Row.speaker`` where a corpus does not tell


@dataclass(frozen=True)
class Row:
    """One utterance of a corpus.

    Attributes:
        id: unique within the corpus, stable across runs and machines (never an absolute path).
        paths: sensor name to file. ``air`` is the clean air-conducted target; recorded sensors stand beside it.
        speaker: who speaks. split: ``train``, ``valid`` or ``test``.
        sample_rate: of the air file, in Hz. offset, duration: the part of the files that is meant, in seconds.
        lag: seconds by which the recorded body signal comes later than air. polarity: +1, or -1 where it is inverted.
        gain: dB by which the recorded body signal is amplified when it is read; lag and polarity are undone there too.
        channels: sensor to channel of its file, from 0; a sensor that is not in it has a mono file.
        bandwidth: Hz up to which air holds speech, as measured; None: not measured.
        extra: other columns of the manifest.
    """

    id: str
    paths: Mapping[str, str]
    speaker: str
    split: str
    sample_rate: int
    duration: float
    offset: float = 0.0
    lag: float = 0.0
    polarity: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    gain: float = 0.0
    bandwidth: float | None = None


@runtime_checkable
class Corpus(Protocol):
    """Where utterances come from. ``rows`` may prepare (synthesise, scan) on its first call."""

    def rows(self, split: str) -> list[Row]:
        """The utterances of ``train``, ``valid`` or ``test``, always in the same order."""
        ...


@runtime_checkable
class Simulator(Protocol):
    """Makes one sensor's signal from clean air-conducted speech.

    ``air (1, T)`` at ``sample_rate``; returns a dict with ``signal (1, T)`` and, where it added the noise of a room,
    ``noise (1, T)``, which the class attribute ``provides_noise = True`` announces. ``target (1, T)``, where the dict
    has it, takes the place of air as what the network learns to give back: speech with the early reflections of a room.
    All randomness is drawn from ``generator``. With ``training`` false the simulation is the fixed one of the
    evaluation: what it still draws (noise and its level) comes from a generator that is seeded by the utterance.
    """

    def __call__(self, air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        """Simulates one utterance or segment."""
        ...


@runtime_checkable
class BodySimulator(Simulator, Protocol):
    """A simulator that models the wearer: resonances, tilt, which of several measured responses.

    Where ``models_body`` is true it is called with ``body``, a generator that is seeded by the sensor and the SPEAKER
    (and in training by the run), anew for each call, so that all utterances of a speaker draw the same numbers from it.
    What changes from utterance to utterance is drawn from ``generator``.
    """

    models_body: bool

    def __call__(
        self,
        air: Tensor,
        sample_rate: int,
        generator: torch.Generator,
        training: bool,
        *,
        body: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Simulates one utterance or segment; without ``body`` the wearer too is drawn from ``generator``."""
        ...


@runtime_checkable
class BatchSimulator(Simulator, Protocol):
    """A simulator that takes a whole batch, on the device that the batch is on.

    Parameters and noises are drawn on the CPU, each item's from its own generators and in the order of a call of its
    own, so that the result equals item-by-item calls to 1e-5 on any device and in a batch of any size.
    """

    def batch(
        self,
        air: Tensor,
        sample_rate: int,
        generators: Sequence[torch.Generator],
        training: bool,
        bodies: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """Simulates B utterances or segments of one length.

        Args:
            air: ``(B, 1, T)`` clean speech. Items that are shorter are zero behind their end: what lies there in the
                result is the caller's to cut off.
            sample_rate: in Hz.
            generators: B of them, on the CPU.
            training: as in a call.
            bodies: B of them, on the CPU, for a simulator that models the wearer; see :class:`BodySimulator`.

        Returns:
            ``signal`` and, where there is one, ``noise``: ``(B, 1, T)`` float32 on the device of ``air``.
        """
        ...
