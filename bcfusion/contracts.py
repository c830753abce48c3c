"""The contracts of the framework: what a batch, a network, a loss, a metric, a corpus and a simulator are.

Everything here is a Protocol or a plain container: a class in a user's own package fulfils it by having the right
attributes, without importing bcfusion or inheriting from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
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
        origins: for people to read, the files of each training crop and the second at which it begins.
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
    origins: list[str]
    air: Tensor
    pending: list[list[tuple[int, int, int, int, int | None]]]


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
class Taught(Protocol):
    """A generator whose training step is not its use: ``forward`` restores speech, ``teach`` says what losses get.

    Flows and bridges are trained at one random time of their path and restore speech in several steps; see
    :class:`bcfusion.objectives.bridge.Bridge`. Training calls ``teach`` in place of the generator.

    >>> import torch
    >>> class Denoiser(torch.nn.Module):
    ...     def forward(self, inputs):
    ...         return 0.9 * inputs[:, -1:]
    ...
    ...     def teach(self, batch):
    ...         noisy = batch["target"] + 0.1 * torch.randn_like(batch["target"])
    ...         return {"estimate": self(noisy)}
    >>> generator = Denoiser()
    >>> isinstance(generator, Taught)
    True
    >>> generator.teach({"inputs": torch.zeros(2, 1, 8), "target": torch.zeros(2, 1, 8)})["estimate"].shape
    torch.Size([2, 1, 8])
    """

    def teach(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``estimate (B, 1, T)`` and the keys of ``provides``, from a training batch on the device."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A generator that restores speech in a number of steps that may be changed after training.

    >>> import torch
    >>> class Halving(torch.nn.Module):
    ...     steps = 1
    ...
    ...     def set_steps(self, steps):
    ...         self.steps = steps
    ...
    ...     def forward(self, inputs):
    ...         return inputs[:, -1:] * 0.5**self.steps
    >>> generator = Halving()
    >>> isinstance(generator, Stepwise)
    True
    >>> generator.set_steps(2)
    >>> generator(torch.ones(1, 1, 1))
    tensor([[[0.2500]]])
    """

    steps: int

    def set_steps(self, steps: int) -> None:
        """Take another number of steps from now on; ``delay`` may change.

        Raises:
            ConfigError: less than one.
        """
        ...


@runtime_checkable
class BuiltFromFiles(Protocol):
    """A generator, or a part of one, whose arguments name files that hold weights; a bundle is built without them.

    >>> import torch
    >>> class Pretrained(torch.nn.Module):
    ...     def __init__(self, size=None, model=None):
    ...         super().__init__()
    ...         self.size = size or 3  # in a network worth the name, as the model says
    ...
    ...     def without_files(self, arguments):
    ...         return {**arguments, "size": self.size, "model": None}
    >>> isinstance(Pretrained(), BuiltFromFiles)
    True
    >>> Pretrained(model="runs/a").without_files({"_target_": "lab.Pretrained", "model": "runs/a"})
    {'_target_': 'lab.Pretrained', 'model': None, 'size': 3}
    """

    def without_files(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``_target_`` and arguments that build this network without a file, to load its weights into.

        Args:
            arguments: of a network of this class; those of another one are returned as they are.
        """
        ...


@runtime_checkable
class StartsFromStatistics(Protocol):
    """A part of a generator, or all of it, that starts from statistics of what passes through it.

    Training looks for such parts in the modules of a generator. Before the first step of a new run it calls
    ``observe``, then the generator with the batch's inputs, for some batches, ``start``, and ``observe(None)``; see
    :func:`bcfusion.nn.statistics.start_from_statistics`. It is the generator's forward pass that measures: a part sees
    what it will see in training, wherever it is. So of parts inside each other, the outer one starts first; an inner
    one is then observed again. While it is observed, a part may skip what is expensive.

    Unlike a :class:`Fitted` generator, it may be inside another one.

    >>> import torch
    >>> class Level(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gain = torch.nn.Parameter(torch.ones(()))
    ...         self.register_buffer("measured", torch.tensor(False))
    ...         self.observed, self.powers = None, []
    ...
    ...     @property
    ...     def started(self):
    ...         return bool(self.measured)
    ...
    ...     def observe(self, batch):
    ...         self.observed = batch
    ...         if batch is None:
    ...             self.powers = []
    ...
    ...     def forward(self, x):
    ...         if self.observed is not None:
    ...             self.powers.append(x.square().mean())
    ...         return self.gain * x
    ...
    ...     @torch.no_grad()
    ...     def start(self):
    ...         self.gain.copy_(torch.stack(self.powers).mean().rsqrt())
    ...         self.measured.fill_(True)
    >>> level = Level()
    >>> isinstance(level, StartsFromStatistics), level.started
    (True, False)
    >>> level.observe({"inputs": torch.full((2, 1, 8), 0.5)})
    >>> _ = level(torch.full((2, 1, 8), 0.5))
    >>> level.start()
    >>> level.observe(None)
    >>> level.gain, level.started
    (Parameter containing:
    tensor(2., requires_grad=True), True)
    """

    @property
    def started(self) -> bool:
        """Whether it waits for no statistics; it follows from persistent buffers, and so from loaded weights."""
        ...

    def observe(self, batch: Batch | None) -> None:
        """Measure the next forward pass, that of the inputs of ``batch``; None: measure no more, and forget what has
        not been used by ``start``.

        Args:
            batch: of training, on the device of the generator.
        """
        ...

    def start(self) -> None:
        """Set buffers and parameters from what was measured, in place."""
        ...


@runtime_checkable
class Discriminator(Protocol):
    """Judges a waveform ``(B, 1, T)``: one Judgement per sub-discriminator.

    One with an attribute ``takes``, names of a generator's ``provides``, is given these signals from inside the
    generator too, by name (EBEN's bands). The generator then has a method ``inside(waveform)``, which returns them for
    the target; with an attribute ``inside_hop``, the samples of one of their frames, they end where an item does.

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


@runtime_checkable
class Critic(Protocol):
    """Predicts the score, 0 to 1, that a metric gives to estimates beside their targets.

    ``least_samples`` is the length of the shortest signal that it can judge.

    >>> import torch
    >>> class Similarity(torch.nn.Module):
    ...     least_samples = 1
    ...
    ...     def forward(self, estimate, target):
    ...         return torch.exp(-(estimate - target).abs().mean((1, 2)))
    >>> Similarity()(torch.ones(2, 1, 8), torch.ones(2, 1, 8))
    tensor([1., 1.])
    """

    least_samples: int

    def __call__(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return scores ``(B,)`` of ``estimate`` and ``target (B, 1, T)``."""
        ...


class Anchor(Protocol):
    """Where the gradients of the individual losses are compared: the generator's output, or one of its parameters.

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
        mean norm of the items' own gradients, and the mean over ranks. At a parameter it is the norm of the mean over
        ranks of the resulting gradients there. NaN if a gradient is not finite, on any rank.
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
            weights: by name; every loss has one.
            anchor: measures the losses' gradients.
            backward: the trainer's own backward pass of the generator.

        Returns:
            The share of each loss in the gradient, 0 to 1, for the log.
        """
        ...


@runtime_checkable
class AdversarialLoss(Protocol):
    """The game between generator and discriminators. Both losses are scalars.

    ``boundary`` is the logit between those that the discriminators give to speech and to estimates.

    >>> import torch
    >>> class WassersteinLoss:
    ...     boundary = 0.0
    ...
    ...     def discriminator(self, target_judgements, estimate_judgements):
    ...         return self.generator(target_judgements) - self.generator(estimate_judgements)
    ...
    ...     def generator(self, estimate_judgements):
    ...         return -sum(judgement.logits.mean() for judgement in estimate_judgements)
    >>> real, fake = [Judgement(torch.ones(2, 1), [])], [Judgement(-torch.ones(2, 1), [])]
    >>> WassersteinLoss().discriminator(real, fake)
    tensor(-2.)
    """

    boundary: float

    def discriminator(self, target_judgements: Sequence[Judgement], estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the loss of the discriminators."""
        ...

    def generator(self, estimate_judgements: Sequence[Judgement]) -> Tensor:
        """Return the loss of the generator."""
        ...


#: what a loss may ask for of every batch; ``noise`` is there only if the task adds it
BATCH_NAMES = frozenset({"inputs", "target", "lengths"})
#: what a loss may ask for if there are discriminators
JUDGEMENTS = frozenset({"estimate_judgements", "target_judgements"})


def asks_for(loss: Any) -> tuple[str, ...]:
    """Return the argument names of the ``forward`` of a loss, given as an instance or a class; none without one."""
    forward = getattr(loss, "forward", None)
    return () if forward is None else tuple(name for name in signature(forward).parameters if name != "self")


def unprovided(
    asks: Iterable[str], generator_provides: Iterable[str], batch_names: Iterable[str], adversarial: bool
) -> list[str]:
    """Return the names that a loss asks for and nobody provides, in the order of its arguments.

    Args:
        asks: argument names of the loss, as of :func:`asks_for`.
        generator_provides: keys of the generator's output in addition to ``estimate``.
        batch_names: keys of a batch in addition to :data:`BATCH_NAMES`, such as ``noise``.
        adversarial: whether discriminators provide :data:`JUDGEMENTS`.
    """
    provided = {"estimate", *BATCH_NAMES, *generator_provides, *batch_names, *(JUDGEMENTS if adversarial else ())}
    return [name for name in asks if name not in provided]


@runtime_checkable
class Metric(Protocol):
    """A quality measure of one utterance, computed in NumPy in a worker process.

    ``score`` returns one value per name in ``names``, or raises :class:`Skip` with the reason. A metric that has no
    meaning at some sample rates may have a method ``check_rate(sample_rate)``, which raises a
    :class:`~bcfusion.errors.ConfigError`: it is asked before anything is scored.

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
#: seconds between the ends of sensors' files up to which the common part is used; more are two takes, and refused
SENSORS_END_WITHIN = 0.5
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
        weight: how often training visits it, relative to a row of the same length; above 0.
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
    weight: float = 1.0


@runtime_checkable
class Corpus(Protocol):
    """Where utterances come from. ``rows`` may prepare them (synthesise, scan) on its first call.

    A corpus whose training utterances are not listed names the data module that loads them in an attribute
    ``datamodule``, as :class:`bcfusion.data.loading.shards.remote.StreamedShards` does; its ``rows`` lists only
    ``valid`` and ``test``. One that gives its parts shares of the training crops may have a method
    ``weighted(rows, visits)``, as :class:`bcfusion.data.loading.mixture.Mixture` has.

    Example::

        >>> class Pair:
        ...     def rows(self, split):
        ...         return [Row(f"{split}/{n}", {"air": f"{split}{n}.wav"}, "ann", split, 16000, 2.5) for n in range(2)]
        >>> isinstance(Pair(), Corpus)
        True
        >>> [row.id for row in Pair().rows("valid")]
        ['valid/0', 'valid/1']
    """

    def rows(self, split: str) -> Sequence[Row]:
        """Return the utterances of one of :data:`SPLITS`, always in the same order."""
        ...


@dataclass(frozen=True)
class Draw:
    """What a simulator is given for one utterance or segment, in addition to the speech.

    Attributes:
        sample_rate: of the speech and of the result, in Hz.
        generator: source of everything that changes from utterance to utterance; seeded by the item, on the CPU.
        body: source of everything that belongs to the wearer (resonances, tilt, which of several measured responses);
            seeded by the sensor and the SPEAKER, in training by the run too, so that all utterances of a speaker draw
            the same numbers from it. On the CPU, and fresh for each call.
        training: False in evaluation, where the simulation is fixed: what is still drawn (noise and its level) comes
            from generators that are seeded by utterance and speaker alone, so it is the same in every run.
    """

    sample_rate: int
    generator: torch.Generator
    body: torch.Generator
    training: bool


@runtime_checkable
class Simulator(Protocol):
    """Makes one sensor's signal from clean air-conducted speech.

    ``air`` is ``(1, T)``. Returned is a dict with ``signal (1, T)`` and optionally:

    - ``noise (1, T)``, the room noise it added, announced by the class attribute ``provides_noise = True``;
    - ``target (1, T)``, which replaces air as what the network learns to restore: speech with the early reflections of
      a room. It too is announced by ``provides_noise``.

    A simulator that reads files sets ``reads_files = True``, so that it runs in the processes of the loader. One that
    leaves some signal in every band, as real sensors do, sets ``full_band = True``: then there is no warning that gains
    cannot restore an empty band. All randomness comes from the generators of ``draw``. One that cannot work at every
    sample rate may have a method ``check_rate(sample_rate)``, which raises a :class:`~bcfusion.errors.ConfigError`: it
    is asked before training.

    Example::

        >>> import torch
        >>> class Telephone:
        ...     def __call__(self, air, draw):
        ...         gain = 0.5 + torch.rand(1, generator=draw.body)
        ...         noise = 0.01 * torch.randn(air.shape, generator=draw.generator)
        ...         return {"signal": gain * air + noise}
        >>> utterance, wearer = (torch.Generator().manual_seed(seed) for seed in (1, 2))
        >>> Telephone()(torch.zeros(1, 8000), Draw(8000, utterance, wearer, training=True))["signal"].shape
        torch.Size([1, 8000])
    """

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Simulate one utterance or segment."""
        ...


@runtime_checkable
class BatchSimulator(Simulator, Protocol):
    """A simulator that takes a whole batch, on the device of the batch.

    Parameters and noise are drawn on the CPU, for each item from its own generators and in the order of a single call,
    so that the result equals item-by-item calls to 1e-5 on any device and in a batch of any size.

    Example::

        >>> import torch
        >>> from bcfusion.data.simulation import Batched  # calls ``batch`` for a single signal
        >>> class Louder(Batched):
        ...     def batch(self, air, draws):
        ...         gains = torch.stack([1.0 + torch.rand(1, 1, generator=draw.body) for draw in draws])
        ...         return {"signal": gains.to(air) * air}
        >>> draws = [Draw(8000, torch.Generator(), torch.Generator(), training=True) for _ in range(4)]
        >>> Louder().batch(torch.zeros(4, 1, 8000), draws)["signal"].shape
        torch.Size([4, 1, 8000])
    """

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Simulate B utterances or segments of one length.

        Args:
            air: ``(B, 1, T)`` clean speech. Shorter items are zero past their end; the caller cuts off what the result
                holds there.
            draws: one per item, all of one sample rate and all of training or all of evaluation.

        Returns:
            ``signal``, and whatever else a single call returns: ``(B, 1, T)`` float32 on the device of ``air``.
        """
        ...
