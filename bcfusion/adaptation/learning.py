"""Training steps of an adaptation: the losses of the network's own training, without an adversary."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bcfusion.configuration.learning import needs_discriminators
from bcfusion.contracts import Batch, asks_for, unprovided
from bcfusion.errors import CheckpointError, TrainingError
from bcfusion.files import from_yaml
from bcfusion.losses.latent import LatentL1Loss
from bcfusion.losses.mel import LogMelLoss
from bcfusion.losses.spectral import MultiResolutionStftLoss
from bcfusion.nn.network import additional_lookahead, heard, outputs_to_learn_from
from bcfusion.probe import moved
from bcfusion.run.building import build_generator
from bcfusion.run.bundle import Bundle
from bcfusion.run.layout import RunDir
from bcfusion.training.ema import EmaGenerator

__all__ = ["OWN", "Learner", "WeightedLosses", "losses_of"]

logger = logging.getLogger(__name__)

WeightedLosses = Mapping[str, tuple[nn.Module, float]]
CLIP = 5.0  #: largest norm of the gradient
#: of the average of the weights: over about the last ten steps. With few recordings, single steps go astray.
EMA_DECAY = 0.9
WARM_UP = 10  #: steps over which the learning rate rises: Adam's first steps are as large as any
MAX_BAD_STEPS = 10
OWN = "of its own training"  #: where losses come from


def losses_of(
    bundle: Bundle,
    generator: nn.Module,
    model: Path,
    *,
    trust_code: bool = False,
    trusted: Collection[str] | None = None,
) -> tuple[dict[str, tuple[nn.Module, float]], str]:
    """Return the losses of a network's own training with their weights, and where they come from.

    Those that need discriminators, and those whose classes are not trusted, are left out. If none is known, or none is
    left, they are the L1 distance of log mel spectrograms and that of short-time spectra at three resolutions, or of a
    codec that learns from its latent alone the L1 distance of latents.

    Args:
        bundle: describes the network.
        generator: the network.
        model: where it was loaded from.
        trust_code: see :func:`bcfusion.load_generator`.
        trusted: the losses to build, because the process that started this one has built them; None: all.
    """
    nodes = bundle.training.get("losses")
    config = RunDir(model).config
    if nodes is None and (RunDir(model).record.is_file() and config.is_file()):
        try:
            content = from_yaml(config.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{config} cannot be read: {error}") from error
        nodes = content.get("losses") if isinstance(content, Mapping) else None
    found: dict[str, tuple[nn.Module, float]] = {}
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if trusted is not None and name not in trusted:
            continue
        try:
            arguments = dict(node)
            weight = float(arguments.pop("weight", 1.0))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{model} is damaged: its loss {name} has no settings: {error}") from error
        try:
            loss = build_generator(arguments, model, trust_code=trust_code or trusted is not None)
        except CheckpointError as error:
            logger.warning("loss %s is left out: %s", name, error)
            continue
        provides = getattr(generator, "provides", ())
        if weight and not needs_discriminators(type(loss)) and not unprovided(asks_for(loss), provides, (), False):
            found[name] = (loss, weight)
    if found:
        return found, OWN
    if getattr(generator, "learns_from", ()) == ("latent",):
        return {"latent_l1": (LatentL1Loss(), 1.0)}, "of latents, since those of its own training are not stored"
    rate = bundle.sample_rate
    usual = {"log_mel": (LogMelLoss(rate, floor=1e-2), 1.0), "mr_stft": (MultiResolutionStftLoss(floor=1e-5), 0.5)}
    return dict(usual), "log mel and short-time spectra, since those of its own training are not stored"


class Learner:
    """A network with its losses and optimiser.

    Args:
        network: to train, on its device.
        losses: with their weights.
        lr: learning rate of Adam, after a warm-up of ten steps.

    Attributes:
        network: the one that is trained.
        steps: number of them so far.
    """

    def __init__(self, network: nn.Module, losses: WeightedLosses, lr: float) -> None:
        self.network = network
        device = next(network.parameters()).device
        self.losses = {name: (loss.to(device), weight) for name, (loss, weight) in losses.items()}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        self.lr = lr
        self.steps = 0
        self._average = EmaGenerator(network, EMA_DECAY)
        self._asks = {name: asks_for(loss) for name, (loss, _) in losses.items()}
        self._device = device
        self._bad = 0
        self._ahead = additional_lookahead(network)

    @property
    def averaged(self) -> nn.Module:
        """The network that is scored and shipped, in evaluation mode: the average of the last weights."""
        return self._average.network

    def step(self, batch: Batch) -> float:
        """Train on one batch and return the loss.

        Raises:
            TrainingError: the gradients of ten steps in a row were not finite, or no loss teaches anything.
        """
        self.network.train()
        here = moved(batch, self._device)
        outputs = outputs_to_learn_from(self.network, here)
        names: dict[str, Any] = {**heard(here, self._ahead), **outputs}
        total = torch.zeros((), device=self._device)
        for name, (loss, weight) in self.losses.items():
            total = total + weight * loss(**{argument: names[argument] for argument in self._asks[name]})
        self.optimizer.zero_grad(set_to_none=True)
        if not total.requires_grad:
            raise TrainingError(
                f"{', '.join(self.losses)}: nothing to learn from: no trained parameter of "
                f"{type(self.network).__name__} has an influence on what they compare"
            )
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        if bool(torch.isfinite(norm)):
            self._bad = 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (self.steps + 1) / WARM_UP)
            self.optimizer.step()
            self._average.update(self.network)
        else:
            self._bad += 1
            if self._bad >= MAX_BAD_STEPS:
                raise TrainingError(f"the gradients of {self._bad} steps in a row are not finite: give a lower --lr")
        self.steps += 1
        return float(total.detach())
