"""Read the blind ratings that a listening page saves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcfusion.errors import DataError
from bcfusion.files import from_json

__all__ = ["Session", "Trial", "read_ratings"]

FORMAT = "bcfusion-ratings"


@dataclass(frozen=True)
class Trial:
    """One listener's rating of one utterance.

    Attributes:
        utterance: id of the utterance.
        scores: system to score from 0 to 100 (MUSHRA); empty for A/B.
        reference: the system that is the hidden reference (MUSHRA); empty if there is none.
        pair: the two systems (A/B).
        preferred: the better one of them; empty if they are equal.
    """

    utterance: str
    scores: Mapping[str, float]
    reference: str = ""
    pair: tuple[str, str] | None = None
    preferred: str = ""


@dataclass(frozen=True)
class Session:
    """The ratings of one listener on one page.

    Attributes:
        name: name of the listener as typed, otherwise the key.
        key: identifies the session.
        trials: the ratings.
        page: identifies the page.
    """

    name: str
    key: str
    trials: tuple[Trial, ...]
    page: str = ""


def read_ratings(path: Path) -> Session:
    """Read a file of ratings.

    Args:
        path: ``.json`` or ``.csv``.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return _from_csv(list(csv.DictReader(file)))
        return _from_json(from_json(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{path}: not the ratings of a listening page ({type(error).__name__}: {error}); "
            "give a file that the page saved by Save JSON or Save CSV"
        ) from error


def _from_json(content: Any) -> Session:
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != 1:
        raise ValueError(f"its format is not {FORMAT}, version 1")
    trials = []
    for rating in content["ratings"]:
        utterance = str(rating["utterance"])
        if rating["mode"] == "ab":
            pair = (str(rating["a"]), str(rating["b"]))
            preferred = {"a": pair[0], "b": pair[1], "none": ""}[rating["choice"]]
            trials.append(Trial(utterance, {}, pair=pair, preferred=preferred))
        elif rating["mode"] == "mushra":
            scores = {str(each["system"]): _score(each["score"]) for each in rating["scores"]}
            reference = [str(each["system"]) for each in rating["scores"] if each["role"] == "reference"]
            trials.append(Trial(utterance, scores, "".join(reference[:1])))
        else:
            raise ValueError(f"unknown mode {rating['mode']!r}")
    key = str(content["session"])
    return Session(str(content.get("listener") or key), key, tuple(trials), str(content.get("page", "")))


def _from_csv(rows: Sequence[Mapping[str, str]]) -> Session:
    if not rows:
        raise ValueError("it is empty")
    trials: list[Trial] = []
    sliders: dict[tuple[str, str], dict[str, float]] = {}
    references: dict[tuple[str, str], str] = {}
    for row in rows:
        if row["mode"] == "ab":
            pair = (row["system"], row["other"])
            preferred = {"1": pair[0], "0": pair[1], "0.5": ""}[row["value"]]
            trials.append(Trial(row["utterance"], {}, pair=pair, preferred=preferred))
        elif row["mode"] == "mushra":
            place = (row["utterance"], row["trial"])
            sliders.setdefault(place, {})[row["system"]] = _score(row["value"])
            if row["role"] == "reference":
                references[place] = row["system"]
        else:
            raise ValueError(f"unknown mode {row['mode']!r}")
    trials += [Trial(place[0], scores, references.get(place, "")) for place, scores in sliders.items()]
    key = rows[0]["session"]
    return Session(rows[0]["listener"] or key, key, tuple(trials), rows[0].get("page", ""))


def _score(value: Any) -> float:
    score = float(value)
    if not 0 <= score <= 100:
        raise ValueError(f"{value} is not a score from 0 to 100")
    return score
