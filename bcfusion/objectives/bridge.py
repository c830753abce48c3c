"""A generator that leads a signal from the sensor, or from noise, along a path to the target, in a few steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.nn.delay import Delay
from bcfusion.nn.inner import Build, takes
from bcfusion.nn.network import WaveformNetwork, heard, least_frame_of, signals_of
from bcfusion.nn.streaming import StreamingModule
from bcfusion.nn.time import TimeConditioned
from bcfusion.objectives.domains import Domain, SpectralDomain, WaveformDomain
from bcfusion.objectives.noise import normal_at
from bcfusion.objectives.paths import Path, Solver
from bcfusion.requirements import at_least, one_of, require, within

Predict = Literal["data", "velocity"]
Where = Literal["spectrum", "waveform"]

_BLOCK = 2**16  # places that a stream counts together
_TIME_LEVEL = 0.1  # of the channel that holds the time, about the level of speech


class Bridge(WaveformNetwork):
    """``(B, in_channels, T) -> (B, 1, T)``: a network in several passes, each of which sees the sensors and the state.

    In training (:meth:`teach`) a time is drawn for each item and the signal on the path there; the network predicts
    from it, and from the sensors, the target (``data``) or the path's ``velocity``. With the first the one-step
    estimate is what it says, so that every loss, balancer and discriminator can be used; with the second it is computed
    from it, and the loss is :class:`bcfusion.losses.prediction.PredictionMseLoss`.

    At inference the signal starts at the source and takes ``steps`` equal steps of time to the target. Its noise is a
    function of ``seed`` and of the absolute place in the file (:func:`bcfusion.objectives.noise.normal_at`): results
    repeat, do not depend on the rest of a batch, and chunks and streams equal the whole file if those of the network
    do. If it is causal it streams, with a state for each pass.

    The channels of the network are the sensors, the state and the time, which is constant over the signal; a
    :class:`bcfusion.nn.time.TimeConditioned` network is conditioned on the time instead.

    The network's additional look-ahead, its argument ``lookahead_ms``, is taken over: each pass sees the sensors twice,
    as they arrive and as late as the state is. Only the sensors are seen early, all passes see them equally early, and
    steps add no latency; if every pass looked ahead in the state, too, look-aheads would add up.

    Args:
        network: builds the network; it is called with ``in_channels`` and, if it takes that, ``skip_channel``, the
            source's sensor, in place of its own, which may not be another one. In a YAML a ``_target_`` with
            ``_partial_: true``.
        path: see :mod:`bcfusion.objectives.paths`.
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        predict: what the network predicts, ``data`` or ``velocity``.
        domain: where the path lies: ``spectrum``, compressed, of a network on spectra; or ``waveform``, for any.
        exponent: of magnitudes in the spectrum's domain.
        scale: of spectra there, after compression.
        solver: ``euler``; ``heun`` (two passes for each step but the last, second order) for flows; ``sde`` for the
            Schroedinger bridge.
        steps: of the solver; another number may be set later, see :meth:`set_steps`.
        least_time: the earliest time of training; at inference the network gets no earlier one.
        p_source: share of the items of a training batch at t = 1, where inference starts; the times of the others are
            uniform. With few steps the network is used there most, and on a uniform time it is rarely trained near it.
        p_condition: share of the items of a training batch whose sensors the network hears.
        guidance: w of classifier-free guidance (Ho & Salimans 2022): prediction without sensors + w times the
            difference that they make; 1 leaves it out. Another needs ``p_condition`` below 1, and twice the passes.
        seed: of the noise at inference.
        source_channel: the sensor that the path starts from; -1 is the last.

    Attributes:
        provides: in training ``prediction``, ``prediction_target`` and ``prediction_mask``, in the domain.
        only_masks: whether the network multiplies its input by a mask, which fills no empty band.

    Raises:
        ConfigError: numbers out of range, a path that cannot be followed so, or a network that does not fit the domain.
    """

    provides: tuple[str, ...] = ("prediction", "prediction_target", "prediction_mask")

    def __init__(
        self,
        network: Build,
        path: Path,
        sample_rate: int = 16000,
        in_channels: int = 1,
        predict: Predict = "data",
        domain: Where = "spectrum",
        exponent: float = 0.5,
        scale: float = 0.33,
        solver: Solver = "euler",
        steps: int = 5,
        least_time: float = 0.03,
        p_condition: float = 1.0,
        guidance: float = 1.0,
        seed: int = 0,
        source_channel: int = -1,
        p_source: float = 0.0,
    ) -> None:
        name = type(path).__name__
        require(
            self,
            at_least(1, in_channels=in_channels),
            one_of(get_args(Predict), predict=predict),
            one_of(get_args(Where), domain=domain),
            one_of(path.solvers, solver=solver),
            (predict == "data" or path.has_velocity, f"predict=velocity: {name} has none; take predict=data"),
            (0 < least_time < 1, f"least_time={least_time} must be above 0 and below 1"),
            within(0, 1, p_source=p_source),
            (0 < p_condition <= 1, f"p_condition={p_condition} must be above 0 and at most 1"),
            at_least(0, guidance=guidance),
            (guidance == 1 or p_condition < 1, f"guidance={guidance} needs p_condition below 1, to learn both"),
            within(-in_channels, in_channels - 1, source_channel=source_channel),
        )
        kind = getattr(network, "func", network)
        named = getattr(kind, "__name__", "the network")
        require(self, (takes(network, "in_channels"), f"{named} takes no in_channels: it cannot lie on a path"))
        takes_time = isinstance(kind, type) and issubclass(kind, TimeConditioned)
        given = getattr(network, "keywords", {})
        lookahead_ms = given.get("lookahead_ms", 0.0)
        signals = signals_of(in_channels, lookahead_ms)
        arguments: dict[str, Any] = {"in_channels": signals + (1 if takes_time else 2)}
        if takes(network, "skip_channel"):
            own = given.get("skip_channel", -1)
            same = own == -1 or own % in_channels == source_channel % in_channels
            require(self, (same, f"skip_channel={own} of the network is source_channel on a path: set that to {own}"))
            arguments["skip_channel"] = signals - in_channels + source_channel % in_channels
        if takes(network, "condition_channel"):  # a sensor, which may be counted from the last one
            own = given.get("condition_channel", 0)
            require(self, within(-in_channels, in_channels - 1, condition_channel=own))
            arguments["condition_channel"] = own % in_channels
        if lookahead_ms:
            arguments["lookahead_ms"] = 0.0
        # what a network leaves open, to be right here too
        if predict == "velocity" and given.get("normalize_frames", True) is None:
            arguments["normalize_frames"] = False
        if domain == "spectrum" and given.get("compression", 1) is None:
            arguments["compression"] = 1.0
        built = network(**arguments)
        apart = f"{type(built).__name__} does not hear all channels of its input alike: it cannot lie on a path"
        keeps = getattr(built, "only_masks", False) or getattr(built, "keeps_noise", False)
        require(
            self,
            (getattr(built, "hears_all", True), apart),
            (
                predict == "data" or not keeps or not path.noisy_source,
                f"predict=velocity: {type(built).__name__} takes no noise of the path away, since it multiplies the "
                "sensor or does not hear all of it: take predict=data, or another head of the network",
            ),
        )
        for part in built.modules():  # networks inside others get the same first channels
            if isinstance(part, WaveformNetwork) and not part.future:
                part.early = signals - in_channels
        place: Domain = (
            WaveformDomain(built, sample_rate)
            if domain == "waveform"
            else SpectralDomain(built, sample_rate, signals, exponent, scale)
        )
        super().__init__(
            sample_rate,
            in_channels,
            place.hop,
            place.causal,
            skip_channel=source_channel,
            lookahead_ms=lookahead_ms,
        )
        self.domain, self.path = place, path
        self.least_frame = least_frame_of(built)
        self.only_masks = bool(getattr(built, "only_masks", False))
        self.predict, self.solver = predict, solver
        self.least_time, self.p_condition, self.guidance, self.seed = least_time, p_condition, guidance, seed
        self.p_source = p_source
        self.set_steps(steps)

    def set_steps(self, steps: int) -> None:
        """Take another number of steps from now on; with a path in the waveform, the look-ahead changes with them.

        Raises:
            ConfigError: less than one step.
        """
        require(self, at_least(1, steps=steps))
        self.steps = steps
        place, rounds = self.domain, self._rounds
        self.lookahead = self.future + place.lookahead + rounds * place.late
        if self.causal:
            self.delay = self.lookahead + self.hop - 1
        else:
            self.delay = None if place.reach is None else place.lookahead + rounds * place.reach
        # what a pass of Heun's method that is the second of its step compares with waits as well
        seconds = {2 * step + 1 for step in range(steps)} if self.solver == "heun" else set()
        widths = [1 + self.signals + 2 * (index in seconds) for index in range(rounds)]
        self.waits = nn.ModuleList(Delay(place.late, (width, *place.shape)) for width in widths if place.late)

    # ---------------------------------------------------------------- training

    def teach(self, batch: Batch) -> dict[str, Tensor]:
        """Return what a training step computes losses from.

        Args:
            batch: with ``inputs``, ``target`` and ``lengths``.

        Returns:
            ``estimate (B, 1, T)``, the one-step estimate at a random time of each item; what was predicted and what it
            should be, ``prediction`` and ``prediction_target``, of the shape of the domain; and ``prediction_mask``,
            boolean ``(B, N)``, which of its places belong to the item.
        """
        inputs, length = batch["inputs"], batch["inputs"].shape[-1]
        waveforms = torch.cat([inputs, batch["target"].to(inputs)], dim=1)
        if isinstance(self.domain, SpectralDomain) or self.future:
            waveforms = self.padded(waveforms)
        wanted_late = F.pad(waveforms[:, -1:], (self.future, 0))[..., : waveforms.shape[-1]]
        sensors = self.domain.analysis(self.with_copies(waveforms[:, :-1]))
        target = self.domain.analysis(wanted_late.expand(-1, self.signals, -1))[:, :1]
        source, noise = self._source(sensors), self.domain.noise(torch.randn_like(target))
        time = self.least_time + (1 - self.least_time) * torch.rand(len(inputs), device=inputs.device)
        if self.p_source > 0:
            time = torch.where(torch.rand(len(inputs), device=inputs.device) < self.p_source, 1.0, time)
        times = time.view(-1, *[1] * (target.ndim - 1))
        state = self.path.at(target, source, noise, times)
        if self.p_condition < 1:
            conditioned = torch.rand(len(inputs), device=inputs.device) < self.p_condition
            sensors = sensors * conditioned.view_as(times)
        prediction = self._passed(state, sensors, time, aligned=True)
        if self.predict == "velocity":
            wanted, estimate = self.path.velocity(target, source, noise, times), state - times * prediction
        else:
            wanted, estimate = target, prediction
        late = self.domain.lookahead + self.future
        before = self.future // self.domain.step  # places of zeros before the file
        places = torch.arange(target.shape[-1] - before, device=inputs.device)
        return {
            "estimate": self.domain.synthesis(estimate)[..., late : late + length],
            "prediction": prediction[..., before:],
            "prediction_target": wanted[..., before:],
            "prediction_mask": places < self.domain.places(heard(batch, self.ahead)["lengths"])[:, None],
        }

    # ---------------------------------------------------------------- inference

    def body(self, inputs: Tensor) -> Tensor:
        sensors = self.domain.analysis(inputs)
        source, start = self._source(sensors), self._start(sensors.shape[-1])
        times = torch.linspace(1, 0, self.steps + 1, device=inputs.device, dtype=source.dtype)
        state = self.path.at(torch.zeros_like(source), source, self._noise(0, source, start), times[0])
        rounds = iter(range(2 * self.steps))
        for step, (time, to) in enumerate(pairwise(times)):
            last = step == self.steps - 1
            target, velocity, state, sensors = self._predicted(next(rounds), time, state, sensors)
            if last and self.predict == "data":
                state = target  # where every solver ends
                break
            if self.solver == "heun" and not last:
                middle = state + (to - time) * velocity
                _, second, _, sensors, state, velocity = self._predicted(
                    next(rounds), to, middle, sensors, state, velocity
                )
                velocity = (velocity + second) / 2
            state, deviation = self.path.step(state, target, velocity, self._source(sensors), time, to, self.solver)
            if self.solver == "sde":
                state = state + deviation * self._noise(step + 1, state, start)
        return self.domain.synthesis(state)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return the state of the network in all passes but the first, whose state is the network's own, and, if there
        is noise, ``place (B, 2)``, how many places of the domain have passed: in blocks of 2^16, and the rest.

        Both are exact in float32, the only dtype of the state of an exported step.
        """
        state: dict[str, Tensor] = {}
        if self._is_noisy:
            state["place"] = torch.zeros(batch_size, 2, dtype=torch.float32, device=like.device)
        network = self.domain.network
        if isinstance(network, StreamingModule):
            for index in range(1, self._rounds * self._voices):
                for path, layer in network.named_modules():
                    if isinstance(layer, StreamingModule) and path not in self.domain.once:
                        for name, value in layer.initial_state(batch_size, like).items():
                            state[f"pass{index}.{path}.{name}" if path else f"pass{index}.{name}"] = value
        return state

    @property
    def _rounds(self) -> int:
        return 2 * self.steps - 1 if self.solver == "heun" else self.steps

    @property
    def _is_noisy(self) -> bool:
        """Whether noise is drawn at inference, so that the place in the file counts."""
        return self.path.noisy_source or self.solver == "sde"

    @property
    def _voices(self) -> int:
        """Passes at one time: with and without the sensors, if their difference is to be multiplied."""
        return 1 if self.guidance == 1 else 2

    def _source(self, sensors: Tensor) -> Tensor:
        return sensors[:, [self.skip_channel % self.signals]]

    def _start(self, places: int) -> Tensor:
        """Return the number of the first place in the whole file, ``()``, or ``(B,)`` in a stream."""
        if not self.is_streaming:
            return torch.tensor(self.position // self.domain.step)
        if not self._is_noisy:
            return torch.tensor(0)
        blocks, rest = self.recall("place").to(torch.int64).unbind(1)
        start = blocks * _BLOCK + rest
        after = start + places
        self.replace(place=torch.stack([after // _BLOCK, after % _BLOCK], dim=1).float())
        return start

    def _noise(self, draw: int, like: Tensor, start: Tensor) -> Tensor:
        """Return noise in the shape of ``like (B, 1, ..., N)``, or for all items alike."""
        if draw == 0 and not self.path.noisy_source:
            return torch.zeros_like(like)
        places = start.to(like.device)[..., None] + torch.arange(like.shape[-1], device=like.device)
        values = normal_at(self.seed, draw, places, like.shape[1:-1].numel())
        return self.domain.noise(values.reshape(-1, *like.shape[1:])).to(like.dtype)

    def _predicted(
        self, index: int, time: Tensor, state: Tensor, sensors: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        """Let the network predict at ``time``: target and velocity, then all arguments, as late as these are."""
        prediction = self._guided(index, state, sensors, time)
        if self.domain.late:
            signals = (state, sensors, *others)
            late = self.waits[index](torch.cat(signals, dim=1))
            state, sensors, *rest = late.split([signal.shape[1] for signal in signals], dim=1)
            others = tuple(rest)
        if self.predict == "velocity":
            target, velocity = state - time * prediction, prediction
        else:
            target, velocity = prediction, (state - prediction) / time
        return target, velocity, state, sensors, *others

    def _guided(self, index: int, state: Tensor, sensors: Tensor, time: Tensor) -> Tensor:
        times = time.clamp_min(self.least_time).expand(len(state))  # the last of many steps are earlier
        guided = self._nth_pass(index * self._voices, state, sensors, times)
        if self.guidance == 1:
            return guided
        unguided = self._nth_pass(index * self._voices + 1, state, torch.zeros_like(sensors), times)
        return unguided + self.guidance * (guided - unguided)

    def _nth_pass(self, index: int, state: Tensor, sensors: Tensor, time: Tensor) -> Tensor:
        """Pass the network with the state of its ``index``-th pass, if this is a stream."""
        if not self.is_streaming or index == 0:
            return self._passed(state, sensors, time, aligned=False)
        network, prefix = cast("StreamingModule", self.domain.network), f"pass{index}."
        of_first = network.get_state()
        own = {name: self.recall(prefix + name) for name in of_first if name.rpartition(".")[0] not in self.domain.once}
        network.set_state({**of_first, **own})
        prediction = self._passed(state, sensors, time, aligned=False)
        after = network.get_state()
        self.replace(**{prefix + name: after[name] for name in own})
        network.set_state(of_first)
        return prediction

    def _passed(self, state: Tensor, sensors: Tensor, time: Tensor, aligned: bool) -> Tensor:
        """Pass signals ``(B, C, ..., N)`` and ``time (B,)`` through the network: ``(B, 1, ..., N)``."""
        network = self.domain.network
        if isinstance(network, TimeConditioned):
            with network.at_time(time):
                return self.domain.run(torch.cat([sensors, state], dim=1), aligned)
        level = (_TIME_LEVEL * time).view(-1, *[1] * (state.ndim - 1)).to(state.dtype)
        return self.domain.run(torch.cat([sensors, state, level.expand_as(state)], dim=1), aligned)
