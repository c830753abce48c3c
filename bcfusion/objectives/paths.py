r"""Gaussian paths between a target x and what it is restored from, y: what is known at each time t.

Time runs from 0, the target, to 1, the source. At time t a signal on the path is :math:`x_t = a_t x + b_t y + \sigma_t
z` with z of independent normal values of unit power; those of a spectrum are complex numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.requirements import above, at_least, one_of, require

Source = Literal["sensor", "noise"]
Solver = Literal["euler", "heun", "sde"]


class Path(nn.Module, ABC):
    """A path, without parameters. It is a module so that a bundle may name it.

    Attributes:
        solvers: names of the solvers that can follow it.
        has_velocity: whether a network may predict its velocity, :math:`a'_t x + b'_t y + \\sigma'_t z`.
        noisy_source: whether the source, t = 1, holds noise.
    """

    solvers: tuple[Solver, ...]
    has_velocity: bool
    noisy_source: bool

    @abstractmethod
    def weights(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`a_t, b_t, \\sigma_t`, each in the shape of ``time``."""

    @abstractmethod
    def velocity(self, target: Tensor, source: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the derivative of the path by time, for signals of one shape and ``time`` that broadcasts to it."""

    @abstractmethod
    def step(
        self, state: Tensor, target: Tensor, velocity: Tensor, source: Tensor, time: Tensor, to: Tensor, solver: Solver
    ) -> tuple[Tensor, Tensor]:
        """Lead a signal from ``time`` to the earlier time ``to``.

        Args:
            state: the signal on the path at ``time``.
            target: the network's prediction of the target there.
            velocity: likewise of the velocity; unused by paths without one.
            source: y.
            time: scalar.
            to: scalar, below ``time``.
            solver: one of :attr:`solvers`; ``heun`` takes two velocities and is the caller's, who gives their mean.

        Returns:
            The signal at ``to``, and the deviation (scalar) of the noise that has to be added to it: 0 except for
            ``sde``.
        """

    def at(self, target: Tensor, source: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return :math:`x_t`, for signals of one shape and ``time`` that broadcasts to it."""
        of_target, of_source, deviation = self.weights(time)
        return of_target * target + of_source * source + deviation * noise


class Flow(Path):
    r"""A straight path: :math:`x_t = (1 - t) x + t y + t \sigma z` from the sensor, without y from noise.

    FlowSE (Lee et al. 2025, "FlowSE: flow matching based speech enhancement") starts from the sensor with sigma 0.487.
    Conditional flow matching from noise (Lipman et al. 2023; Ku et al. 2024, "Generative speech foundation model
    pretraining for high-quality speech extraction and restoration") hears the sensor only through the network's input.

    Its velocity is the same at all times. A network that predicts the target x gives the velocity :math:`(x_t - x) /
    t`, one that predicts the velocity v the target :math:`x_t - t v`.

    Args:
        source: what is at t = 1: ``sensor``, or ``noise`` alone.
        sigma: deviation of the noise there; 0 from the sensor leads it straight to the target.

    Raises:
        ConfigError: another source; ``sigma`` below 0; from noise, 0.
    """

    solvers = ("euler", "heun")
    has_velocity = True

    def __init__(self, source: Source = "sensor", sigma: float = 0.487) -> None:
        require(
            self,
            one_of(get_args(Source), source=source),
            at_least(0, sigma=sigma),
            (source == "sensor" or sigma > 0, "sigma=0 leaves nothing at the source of a path from noise"),
        )
        super().__init__()
        self.source, self.sigma = source, sigma
        self.from_sensor = float(source == "sensor")
        self.noisy_source = sigma > 0

    def weights(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - time, self.from_sensor * time, self.sigma * time

    def velocity(self, target: Tensor, source: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return self.from_sensor * source - target + self.sigma * noise

    def step(
        self, state: Tensor, target: Tensor, velocity: Tensor, source: Tensor, time: Tensor, to: Tensor, solver: Solver
    ) -> tuple[Tensor, Tensor]:
        return state + (to - time) * velocity, torch.zeros_like(to)

    def extra_repr(self) -> str:
        return f"source={self.source}, sigma={self.sigma}"


class SchroedingerBridge(Path):
    r"""The Schroedinger bridge between sensor and target, of variance-exploding noise.

    Jukic et al. 2024, "Schroedinger bridge for generative speech enhancement", section 3. With :math:`\sigma_t^2 = c
    (k^{2t} - 1) / (2 \ln k)` and :math:`\bar\sigma_t^2 = \sigma_1^2 - \sigma_t^2` a signal on the path has the mean
    :math:`(\bar\sigma_t^2 x + \sigma_t^2 y) / \sigma_1^2` and the variance :math:`\sigma_t^2 \bar\sigma_t^2 /
    \sigma_1^2`: both ends are exact, with noise only between them. The network predicts the target, so one step from
    the sensor is regression.

    - ``sde`` draws :math:`x_s` from its distribution given :math:`x_t` and the predicted target (eq. 15).
    - ``euler`` keeps the noise that :math:`x_t` holds (the probability flow, eq. 16); from the sensor on there is none.

    Args:
        k: growth of the noise, above 1.
        c: its size, above 0.

    Raises:
        ConfigError: ``k`` or ``c`` out of range.
    """

    solvers = ("euler", "sde")
    has_velocity = False
    noisy_source = False

    def __init__(self, k: float = 2.6, c: float = 0.4) -> None:
        require(self, above(1, k=k), above(0, c=c))
        super().__init__()
        self.k, self.c = k, c
        self.whole = self._variance(torch.tensor(1.0, dtype=torch.float64)).item()

    def _variance(self, time: Tensor) -> Tensor:
        return self.c * torch.expm1(2 * math.log(self.k) * time) / (2 * math.log(self.k))

    def weights(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = self._variance(time) / self.whole  # of the variance up to t
        return 1 - share, share, (self.whole * share * (1 - share)).clamp_min(0).sqrt()

    def velocity(self, target: Tensor, source: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        raise NotImplementedError("a network on the Schroedinger bridge predicts the target")

    def step(
        self, state: Tensor, target: Tensor, velocity: Tensor, source: Tensor, time: Tensor, to: Tensor, solver: Solver
    ) -> tuple[Tensor, Tensor]:
        if solver == "sde":
            left = self._variance(to) / self._variance(time)
            return left * state + (1 - left) * target, (self._variance(to) * (1 - left)).clamp_min(0).sqrt()
        of_target, of_source, deviation = self.weights(time)
        left = torch.where(deviation > 0, self.weights(to)[2] / deviation, 0.0)
        noise = state - of_target * target - of_source * source
        of_target, of_source, _ = self.weights(to)
        return of_target * target + of_source * source + left * noise, torch.zeros_like(to)

    def extra_repr(self) -> str:
        return f"k={self.k}, c={self.c}"
