"""The metadata of a network, from what it and its bundle declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from bcfusion.contracts import Generator
from bcfusion.export.metadata import Metadata, StateTensor
from bcfusion.inference.blend import Blend
from bcfusion.inference.stepping import sensors_of
from bcfusion.nn.network import lookahead_of
from bcfusion.run.bundle import bundle_of
from bcfusion.run.card import Card

__all__ = ["describe"]


def describe(
    generator: nn.Module,
    frame: int | None,
    states: Sequence[StateTensor] = (),
    packed: bool = False,
    card: Card | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Metadata:
    """Return the metadata of a network.

    Args:
        generator: fulfils :class:`bcfusion.contracts.Generator`.
        frame: samples of a step; None for a graph of whole files.
        states: of the step.
        packed: likewise.
        card: of the model, if it has one: its licences are named.
        origin: where the weights come from; by default what the generator's bundle says.
    """
    spec = cast("Generator", generator)
    inner = generator.generator if isinstance(generator, Blend) else generator
    bundle = bundle_of(generator)
    if origin is None:
        training = bundle.training if bundle else {}
        origin = {key: training[key] for key in ("recipe", "experiment", "step") if training.get(key) is not None}
    licence: list[dict[str, str]] = []
    if card is not None:
        licence.append({"name": "weights", "licence": card.licence})
        for corpus in card.data:
            more = {"attribution": corpus.attribution, "notice": corpus.notice}
            licence.append({"name": corpus.name, "licence": corpus.licence, **{k: v for k, v in more.items() if v}})
    return Metadata(
        kind="whole" if frame is None else "stream",
        sample_rate=int(spec.sample_rate),
        frame=frame or 0,
        hop=int(spec.hop),
        lookahead=0 if frame is None else lookahead_of(spec),
        delay=None if spec.delay is None else int(spec.delay),
        sensors=sensors_of(generator),
        skip_channel=int(getattr(generator, "skip_channel", -1)) % spec.in_channels,
        states=tuple(states),
        packed=packed,
        strength_share=generator.share if isinstance(generator, Blend) else 0.0,
        network=type(inner).__name__,
        licence=tuple(licence),
        origin=origin,
    )
