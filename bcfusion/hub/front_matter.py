"""The YAML at the head of a model card, by which the hub finds, filters and ranks models."""

from __future__ import annotations

import re
from typing import Any

import yaml

from bcfusion.errors import CheckpointError
from bcfusion.evaluation.systems import ENHANCED
from bcfusion.hub.facts import Facts, scores_of_card
from bcfusion.report.table import metric_name
from bcfusion.run.card import CARD, Card

__all__ = ["front_matter", "licence_id", "licence_of"]

#: licences that the hub has an identifier for
_LICENCES = re.compile(
    r"mit|apache-2\.0|unlicense|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-\d\.0|[al]?gpl-\d\.\d|bsd-[23]-clause(-clear)?|openrail|isc"
)
#: corpora of cards that are data sets of the hub; the longest name that a corpus begins with counts
_DATASETS = {
    "LibriSpeech": "openslr/librispeech_asr",
    "Vibravox": "Cnam-LMSSC/vibravox",
    "TAPS": "yskim3271/Throat_and_Acoustic_Pairing_Speech_Dataset",
}
_LANGUAGES = {"English": "en", "French": "fr", "Korean": "ko", "German": "de", "Chinese": "zh", "Japanese": "ja"}
_TASKS = {
    "bone_to_air": ("bone-conduction", "throat-microphone"),
    "fusion": ("bone-conduction", "noise-suppression"),
    "bandwidth_extension": ("bandwidth-extension",),
}


def front_matter(facts: Facts, name: str, licence: str | None) -> str:
    """Return the block with its lines of dashes; what is not known is left out.

    Args:
        facts: of the model.
        name: of the repository, without its owner.
        licence: the hub's identifier of a licence; None: that of the card, as far as the hub knows it.
    """
    card, bundle = facts.card, facts.bundle
    content: dict[str, Any] = {}
    identifier, stated = licence_of(card, licence)
    if identifier:
        content["license"] = identifier
    elif stated:
        content |= {"license": "other", "license_name": _slug(stated.partition(";")[0])}
    content["library_name"] = "bcfusion"
    content["pipeline_tag"] = "audio-to-audio"
    task = _task(facts)
    tags = ["bcfusion", "speech", "speech-enhancement", *_TASKS.get(task, ())]
    if bundle.causal:
        tags += ["streaming", "real-time"]
    if facts.onnx is not None:
        tags.append("onnx")
    content["tags"] = tags
    if languages := _languages(facts):
        content["language"] = languages
    corpora = () if card is None else card.data
    if datasets := dict.fromkeys(known for each in corpora if (known := _dataset(each.name))):
        content["datasets"] = list(datasets)
    if results := _results(facts, task):
        content["model-index"] = [{"name": name, "results": [results]}]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n"


def licence_of(card: Card | None, given: str | None) -> tuple[str | None, str]:
    """Return the hub's identifier of the licence of the weights, if it has one, and the licence in words, if known.

    Args:
        card: of the model.
        given: the hub's identifier, if it was given; that of the card must be the same.

    Raises:
        CheckpointError: they differ.
    """
    stated = card.licence if card is not None else ""
    known = licence_id(stated)
    if given is None or not stated:
        return given or known, stated or given or ""
    if given not in (known, stated.partition(";")[0].strip().lower()):
        raise CheckpointError(f"--licence {given} differs from the licence in {CARD}, {stated}: correct one of them")
    return given, stated


def licence_id(stated: str) -> str | None:
    """Return the hub's identifier of the licence that a text begins with; None if it is none of those it knows."""
    short = re.sub(r"[\s_]+", "-", re.split(r"[;,(]", stated)[0].strip().lower()).removesuffix("-licence")
    short = {"cc0": "cc0-1.0", "apache": "apache-2.0", "apache-licence-2.0": "apache-2.0"}.get(short, short)
    return short if _LICENCES.fullmatch(short) else None


def _task(facts: Facts) -> str:
    return (facts.card.task if facts.card else "") or str(facts.bundle.training.get("recipe") or "")


def _dataset(corpus: str) -> str | None:
    return next((known for name, known in _DATASETS.items() if corpus.startswith(name)), None)


def _languages(facts: Facts) -> list[str]:
    """Return the languages that the card says the data is in."""
    texts = " ".join(corpus.amount for corpus in facts.card.data) if facts.card else ""
    return [code for name, code in _LANGUAGES.items() if re.search(rf"\b{name}\b", texts)]


def _results(facts: Facts, task: str) -> dict[str, Any] | None:
    if (stated := scores_of_card(facts.card)) is not None:
        what = re.split(r" \(|[.,;]", stated.what)[0]
        values = {key: score.enhanced for key, score in stated.metrics.items()}
    elif facts.scores is not None:
        what = f"{facts.scores.split or 'evaluated'} files"
        enhanced = facts.scores.summary.systems[ENHANCED]
        values = {key: each.mean for key, each in enhanced.items() if each.count}
    else:
        return None
    if not values:
        return None
    return {
        "task": {"type": "audio-to-audio", "name": task.replace("_", " ") or "speech restoration"},
        "dataset": {"type": "recordings", "name": what},
        "metrics": [
            {"type": key, "name": metric_name(key).text, "value": round(value, 5)} for key, value in values.items()
        ],
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "other"
