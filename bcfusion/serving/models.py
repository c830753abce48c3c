"""The models that a server offers, and what it tells about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.probe import count_parameters
from bcfusion.run.bundle import bundle_of, load_generator
from bcfusion.run.card import CARD, Card, read_card
from bcfusion.run.description import Bundle
from bcfusion.run.models import resolve_model
from bcfusion.serving.networks import SharedNetwork, mixed_sensor, open_network

__all__ = ["ServedModel", "load_models"]


@dataclass(frozen=True)
class ServedModel:
    """A model that is served.

    Attributes:
        name: by which clients choose it.
        path: from which it is loaded.
        bundle: what its bundle says.
        parameters: number of trained values.
        card: its card; None without one.
        network: for live streams; None if it is not causal.
        mixed_sensor: index of the sensor with which the output is mixed: the one that the network starts from.
    """

    name: str
    path: Path
    bundle: Bundle
    parameters: int
    card: Card | None = None
    network: SharedNetwork | None = None
    mixed_sensor: int = 0

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of its sensors, in the order of the channels."""
        return tuple(self.bundle.sensors)

    def plain(self) -> dict[str, Any]:
        """Return what a page needs to know, in plain values; times in ms."""
        card, network = self.card, self.network
        frame = latency = None
        if network is not None:
            frame = 1000 * network.frame / network.sample_rate
            latency = frame + 1000 * network.lookahead / network.sample_rate
        return {
            "name": self.name,
            "task": (card.task if card else "") or str(self.bundle.training.get("recipe") or ""),
            "title": card.summary if card else "",
            "sensors": list(self.sensors),
            "mixed_sensor": self.mixed_sensor,
            "about_sensors": {} if card is None else dict(card.sensors),
            "sample_rate": self.bundle.sample_rate,
            "causal": network is not None,
            "frame_ms": frame,
            "latency_ms": latency,
            "licence": card.licence if card else "",
            "note": f"For {card.helps[0]}." if card and card.helps else "",
            "parameters": self.parameters,
        }


def load_models(
    given: Sequence[str], backend: str = "auto", say: Callable[[str], None] = lambda _: None
) -> dict[str, ServedModel]:
    """Load every model once, so that one that cannot be loaded is reported before the server starts.

    Args:
        given: paths or names, as typed.
        backend: for live streams; see :func:`bcfusion.live.steppers.open_stepper`.
        say: is told what takes seconds.

    Returns:
        Them by their names, in the order given.

    Raises:
        BcfusionError: there is no such model, or it cannot be loaded or computed by that backend.
    """
    models: dict[str, ServedModel] = {}
    for text in given:
        if text.lower().endswith(".onnx"):
            raise ConfigError([f"{text}: give the bundle that it was made of; bcfusion stream takes exported files"])
        resolved = resolve_model(text)
        name = _unused(resolved.named.name if resolved.named else resolved.path.name or text, models)
        generator = load_generator(resolved.path)
        bundle = bundle_of(generator)
        assert bundle is not None  # load_generator attaches it
        network = open_network(generator, name, backend, say) if bundle.causal else None
        card, mixed = _card(resolved.path), mixed_sensor(generator)
        models[name] = ServedModel(name, resolved.path, bundle, count_parameters(generator), card, network, mixed)
    return models


def _card(path: Path) -> Card | None:
    try:
        return read_card(path / CARD)
    except CheckpointError:  # bcfusion models NAME says what is wrong with it; the network is not concerned
        return None


def _unused(name: str, models: dict[str, ServedModel]) -> str:
    number, free = 2, name
    while free in models:
        free, number = f"{name}-{number}", number + 1
    return free
