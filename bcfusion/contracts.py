"""The contracts of the framework: what a batch, a network, a loss, a metric, a corpus and a simulator are.

Everything here is a Protocol or a plain container: a class in a user's own package fulfils it by having the right
attributes, without importing bcfusion or inheriting from it.
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
    """What a data loader returns and a training step takes.

    Attributes:
        inputs: ``(B, S, T)`` float32 in [-1, 1], sensors in the order of ``task.sensors``.
        target: ``(B, 1, T)`` clean air-conducted speech.
        lengths: ``(B,)`` int64, valid samples of each item; everything past them is zero padding.
        ids: stable across epochs and runs.
        noise: ``(B, 1, T)``, only if the task adds noise.
        unreadable: paths that were replaced by another item because they could not be read.
        air: ``(B, 1, T)``; with ``pending`` it is completed by :mod:`bcfusion.data.simulation.device_simulation` on the
            training device. A training step never sees either.
        pending: for each item, the simulations that are still to be done.
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
    """The verdict of one sub-discriminator on a waveform.

    Attributes:
        logits: ``(B, ...)``, one score per receptive field.
        features: the activations of its hidden layers, first to last, without the input and without the logits.
    """

    logits: Tensor
    features: list[Tensor]


@runtime_checkable
class Generator(Protocol):
    """Restores speech: ``(B, S, T) -> (B, 1, T)``, or to a dict with key ``estimate`` and those of ``provides``.

    The output has the length of the input for any T of at least one sample; the network pads and trims inside.

    >>> import torch
    >>> class Half(torch.nn.Module):
    ...     sample_rate, in_channels, hop, causal, delay, provides = 16000, 2, 1, True, 0, ()
    ...
    ...     def forward(self, inputs):
    ...         return 0.5 * inputs[:, -1:]
    >>> generator = Half()
    >>> isinstance(generator, Generator)
    True
    >>> generator(torch.ones(3, 2, 5)).shape
    torch.Size([3, 1, 5])
    """

    sample_rate: int
    in_channels: int
    hop: int  #: samples; a streaming chunk is a multiple of it
    causal: bool
    delay: int | None  #: output sample n depends on no input sample after n + delay; None: it may depend on any
    provides: tuple[str, ...]  #: keys of the output other than ``estimate``

    def __call__(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Restore a batch."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A generator that measures statistics of the training set before its first step (normalisation, codebooks).

    ``fit`` stores its results in persistent buffers, written in place, and so in every checkpoint and bundle. Training
    calls it once, when a run starts from scratch; see :class:`bcfusion.training.fitting.Fitting`.

    >>> import torch
    >>> class Level(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.register_buffer("level", torch.ones(()))
    ...
    ...     def fit(self, batches):
    ...         powers = [batch["target"].square().mean() for batch in batches]
    ...         self.level.copy_(torch.stack(powers).mean().sqrt())
    >>> generator = Level()
    >>> isinstance(generator, Fitted)
    True
    >>> generator.fit([{"target": torch.full((2, 1, 8), 0.5)}])
    >>> generator.level
    tensor(0.5000)
    """

    def fit(self, batches: Iterable[Batch]) -> None:
        """Measure the statistics.

        Args:
            batches: each iteration over it is one pass over the training set, in crops as in training; on the device of
                the generator, the same on every rank.
        """
        ...


@runtime_checkable
class Discriminator(Protocol):
    """Judges a waveform ``(B, 1, T)``: one Judgement per sub-discriminator.

    >>> import torch
    >>> class Power(torch.nn.Module):
    ...     def forward(self, waveform):
    ...         squares = waveform.unfold(-1, 4, 4).square()  # (B, 1, frames, 4)
    ...         return [Judgement(logits=squares.mean(-1), features=[squares])]
    >>> [judgement] = Power()(torch.ones(2, 1, 8))
    >>> judgement.logits
    tensor([[[1., 1.]],
    <BLANKLINE>
            [[1., 1.]]])
    """

    def __call__(self, waveform: Tensor) -> list[Judgement]:
        """Judge a batch."""
        ...


class Anchor(Protocol):
    """Where the gradients of the single losses are compared: the generator's output, or one of its parameters.

    The losses are computed on a leaf that is cut from the generator's graph, so that measuring a loss costs one pass
    through that loss alone, and the generator has ONE backward pass whatever the number of losses.
    """

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of a scalar at the generator's output, ``(B, ...)`` float32; 0 if independent of it.

        The graph of the loss is kept, so that other losses that share parts of it can be measured.
        """
        ...

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the norms ``(n,)`` of n gradients from :meth:`gradient`: float32, the same on every rank.

        At the output it is the sum over items of each item's norm, which for a loss that is a mean over items is the
        mean norm of the items' own gradients; at a parameter it is the norm of the resulting gradient there. The mean
        over ranks. NaN if a gradient is not finite, on any rank.
        """
        ...


@runtime_checkable
class Balancer(Protocol):
    """Turns the weighted losses into one gradient of the generator.

    >>> import torch
    >>> class WeightedSum:
    ...     def backward(self, losses, weights, anchor, backward):
    ...         backward(anchor.gradient(sum(weights[name] * loss for name, loss in losses.items())))
    ...         total = sum(weights.values())
    ...         return {name: weights[name] / total for name in losses}
    >>> estimate = torch.ones(1, 1, 2, requires_grad=True)
    >>> class AtTheOutput:
    ...     def gradient(self, loss):
    ...         return torch.autograd.grad(loss, estimate, retain_graph=True)[0]
    >>> losses = {"l1": estimate.abs().mean(), "mse": estimate.square().mean()}
    >>> WeightedSum().backward(losses, {"l1": 1.0, "mse": 3.0}, AtTheOutput(), print)
    tensor([[[3.5000, 3.5000]]])
    {'l1': 0.25, 'mse': 0.75}
    """

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, float],
        anchor: Anchor,
        backward: Callable[[Tensor], None],
    ) -> Mapping[str, float | Tensor]:
        """Run the generator's backward pass: call ``backward`` once, with the gradient at the generator's output.

        Args:
            losses: scalars by name.
            weights: one for each loss at least.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator.

        Returns:
            The share of each loss in the gradient, 0 to 1, for the log.
        """
        ...


@runtime_checkable
class AdversarialObjective(Protocol):
    """The game between generator and discriminators. Both losses are scalars.

    ``boundary`` is the logit between those that the discriminators give to speech and to estimates.

    >>> import torch
    >>> class WassersteinObjective:
    ...     boundary = 0.0
    ...
    ...     def discriminator(self, target_judgements, estimate_judgements):
    ...         return self.generator(target_judgements) - self.generator(estimate_judgements)
    ...
    ...     def generator(self, estimate_judgements):
    ...         return -sum(judgement.logits.mean() for judgement in estimate_judgements)
    >>> real, fake = [Judgement(torch.ones(2, 1), [])], [Judgement(-torch.ones(2, 1), [])]
    >>> WassersteinObjective().discriminator(real, fake)
    tensor(-2.)
    """

    boundary: float

    def discriminator(self, target_judgements: Sequence[Judgement], estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the loss of the discriminators."""
        ...

    def generator(self, estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the loss of the generator."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A quality measure of one utterance, computed in NumPy in a worker process.

    ``score`` returns one value per name in ``names``, or raises :class:`Skip` with the reason.

    >>> import numpy as np
    >>> class MeanError:
    ...     names = ("mean_error",)
    ...     higher_is_better = {"mean_error": False}
    ...
    ...     def score(self, estimate, target, sample_rate):
    ...         if not target.any():
    ...             raise Skip("the target is silent")
    ...         return {"mean_error": float(np.abs(estimate - target).mean())}
    >>> MeanError().score(np.zeros(4), np.full(4, 0.5), 16000)
    {'mean_error': 0.5}
    """

    names: tuple[str, ...]
    higher_is_better: Mapping[str, bool | None]  #: None: information only (a lag), never selected by

    def score(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score one utterance; both signals are ``(T,)``."""
        ...


@runtime_checkable
class ItemMetric(Metric, Protocol):
    """A metric that has to know WHICH utterance it scores: its transcript, its ratings by listeners.

    If a metric has ``score_item``, scoring calls that instead of ``score``.

    >>> import numpy as np
    >>> class Rating:
    ...     names = ("rating",)
    ...     higher_is_better = {"rating": True}
    ...     ratings = {"anna/01": 4.5}
    ...
    ...     def score(self, estimate, target, sample_rate):
    ...         raise Skip("ratings belong to utterances of a corpus")
    ...
    ...     def score_item(self, item_id, estimate, target, sample_rate):
    ...         return {"rating": self.ratings[item_id]}
    >>> Rating().score_item("anna/01", np.zeros(4), np.zeros(4), 16000)
    {'rating': 4.5}
    """

    def score_item(self, item_id: str, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Score the utterance ``item_id`` of the corpus; otherwise like :meth:`Metric.score`."""
        ...


class Skip(Exception):
    """This utterance cannot be scored by this metric; the text is the reason, counted in the report."""


SPLITS = ("train", "valid", "test")  #: the parts of every corpus
UNKNOWN_SPEAKER = "unknown"  #: the ``Row.speaker`` of a corpus that does not name its speakers


@dataclass(frozen=True)
class Row:
    """One utterance of a corpus.

    Attributes:
        id: unique within the corpus, stable across runs and machines (never an absolute path).
        paths: sensor name to file. ``air`` is the clean air-conducted target; further keys are recorded sensors.
        speaker: name of the speaker, or :data:`UNKNOWN_SPEAKER`.
        split: ``train``, ``valid`` or ``test``.
        sample_rate: of the air file, in Hz.
        duration: of the part of the files that is used, in seconds.
        offset: start of that part, in seconds.
        lag: seconds by which the recorded body signal is later than air.
        polarity: +1, or -1 if the recorded body signal is inverted.
        extra: other columns of the manifest.
        channels: sensor to channel of its file, from 0; a sensor without an entry has a mono file.
        gain: dB by which the recorded body signal is amplified when it is read; lag and polarity are undone then, too.
        bandwidth: Hz up to which air contains speech, as measured; None: not measured.
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
    """Where utterances come from. ``rows`` may prepare them (synthesise, scan) on its first call.

    >>> class OneUtterance:
    ...     def rows(self, split):
    ...         paths = {"air": "anna/air.wav", "throat": "anna/throat.wav"}
    ...         row = Row("anna/01", paths, speaker="anna", split="test", sample_rate=16000, duration=2.5)
    ...         return [row] if split == row.split else []
    >>> [row.id for row in OneUtterance().rows("test")]
    ['anna/01']
    """

    def rows(self, split: str) -> list[Row]:
        """Return the utterances of ``train``, ``valid`` or ``test``, always in the same order."""
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
