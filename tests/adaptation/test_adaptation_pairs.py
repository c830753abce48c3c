from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_pairs import LAG, RATE, five_pairs, speech_like, through_the_sensor, write_pair

from bcfusion.adaptation import pairs as adaptation_pairs
from bcfusion.adaptation.folds import FOLDS, folds_of, seconds_of
from bcfusion.adaptation.pairs import checked, enough, envelope_match, pieces_of
from bcfusion.contracts import Row
from bcfusion.data.corpora.manifest_line import ManifestEntry
from bcfusion.data.inspect.alignment import Alignment
from bcfusion.data.inspect.measure import Measured, measure

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return five_pairs(tmp_path_factory.mktemp("pairs"))


# ---------------------------------------------------------------- what is used


def test_lag_and_polarity_are_measured(pairs: list[Row]) -> None:
    rows, refused = checked(pairs[:2], ["body"], RATE)
    assert refused == []
    for row in rows:
        assert row.polarity == -1
        assert row.lag == pytest.approx(LAG / RATE, abs=2e-4)


def test_an_unsure_recording_gets_the_polarity_of_nearly_all_others(
    pairs: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in inspect and train: half a period of a voice later the other sign fits nearly as well."""
    unsure = Alignment(2e-3, 1, 0.62, known=(Alignment(2e-3, 1, 0.62), Alignment(LAG / RATE, -1, 0.6)))

    def measured(entry: ManifestEntry) -> Measured:
        found = measure(entry)
        return replace(found, alignment=unsure) if entry.id == pairs[4].id else found

    monkeypatch.setattr(adaptation_pairs, "measure", measured)
    rows, refused = checked(pairs, ["body"], RATE)
    assert refused == []
    assert [row.polarity for row in rows] == [-1] * 5
    assert rows[4].lag == pytest.approx(LAG / RATE)


def whole() -> Pair:
    air = speech_like(1)
    return through_the_sensor(air), air


FAULTS: dict[str, tuple[Callable[[], Pair], str]] = {
    "silent": (lambda: (np.zeros(3 * RATE), speech_like(1)), "silent: body"),
    "same file": (lambda: (speech_like(1), speech_like(1)), "a sensor's samples are those of air"),
    "copy": (lambda: (speech_like(1) + 1e-6, speech_like(1)), "copy of air"),
    "other take": (lambda: (through_the_sensor(speech_like(2)), speech_like(1)), "not one take"),
    "other length": (lambda: (whole()[0][: 2 * RATE], whole()[1]), "differ in length by 0.5 s or more: 1.000 s"),
    "swapped": (lambda: (whole()[1], whole()[0]), "the channels are swapped"),
    "late start": (
        lambda: (whole()[0], np.roll(whole()[1], -round(0.4 * RATE))),
        "0.40 s later than air: cut both",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_pairs_that_teach_nothing_or_something_wrong_are_refused(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    rows, refused = checked([write_pair(tmp_path, fault, *make())], ["body"], RATE)
    assert rows == []
    assert [each.id for each in refused] == [fault]
    assert words in str(refused[0])
    assert "\n" not in str(refused[0])


def test_a_recording_without_a_sensor_of_the_network_is_refused(pairs: list[Row]) -> None:
    rows, refused = checked(pairs[:1], ["body", "noisy"], RATE)
    assert (rows, refused[0].why) == ([], "no recording of noisy")


@pytest.mark.corpora
def test_real_takes_match_and_wrong_combinations_do_not(corpora: Path) -> None:
    import soundfile

    names = ("00", "08", "16")
    body, air = (
        [soundfile.read(corpora / "throat_pairs" / side / f"{name}.flac")[0] for name in names]
        for side in ("throat", "air")
    )
    for place, signal in enumerate(body):
        matches = [envelope_match(signal, other, RATE)[0] for other in air]
        assert int(np.argmax(matches)) == place
        assert matches[place] > 0.85
        assert sorted(matches)[-2] < 0.7


# ---------------------------------------------------------------- pieces and folds


def row(name: str, seconds: float, speaker: str = "unknown") -> Row:
    return Row(name, {"air": "a", "body": "b"}, speaker, "train", RATE, seconds)


def test_ten_minutes_are_used_of_many_recordings_and_of_one() -> None:
    said: list[str] = []
    many = enough([row(f"r{n}", 60.0) for n in range(20)], [], said.append)
    assert sum(each.duration for each in many) == 600
    for long in ([row("one", 1800.0)], [row("one", 1800.0), row("two", 1800.0)]):
        [one] = enough(long, [], said.append)
        assert one.duration == 600
        assert said[-1] == "the first 10 minutes of one are used: about 10 minutes are enough"


def test_long_recordings_are_cut_and_a_single_one_always() -> None:
    pieces = pieces_of([row("long", 60.0), row("short", 4.0)])
    assert [piece.recording for piece in pieces] == ["long"] * 4 + ["short"]
    assert [piece.row.offset for piece in pieces] == [0.0, 15.0, 30.0, 45.0, 0.0]
    assert len({piece.row.id for piece in pieces}) == 5
    assert len(pieces_of([row("alone", 12.0)])) == 3


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([row(f"r{n}", 5.0 + n) for n in range(9)], FOLDS),
        ([row(f"r{n}", 50.0) for n in range(2)], 2),
        ([row(f"r{n}", 5.0, f"s{n % 3}") for n in range(9)], 3),  # three speakers
        ([row(f"r{n}", 5.0, "ann") for n in range(5)], FOLDS),  # one speaker: by recording
    ],
)
def test_folds_divide_the_groups(rows: list[Row], count: int) -> None:
    pieces = pieces_of(rows)
    folds = folds_of(pieces)
    assert len(folds) == count
    held = Counter(piece.row.id for fold in folds for piece in fold.held)
    assert held == Counter(piece.row.id for piece in pieces)  # each once
    for fold in folds:
        assert {piece.group for piece in fold.training}.isdisjoint(piece.group for piece in fold.held)
        assert len(fold.training) + len(fold.held) == len(pieces)
    if len(rows) == 9:
        assert max(seconds_of(fold.held) for fold in folds) < 1.5 * min(seconds_of(fold.held) for fold in folds)


def test_a_single_recording_is_divided_in_time_and_many_are_scored_in_part() -> None:
    [fold] = folds_of(pieces_of([row("alone", 100.0)]))
    assert max(piece.row.offset for piece in fold.training) < min(piece.row.offset for piece in fold.held)
    assert seconds_of(fold.held) == pytest.approx(30.0, abs=5.0)
    folds = folds_of(pieces_of([replace(row("x", 5.0), id=f"r{n}") for n in range(120)]))
    assert all(seconds_of(fold.held) == 60.0 for fold in folds)
    assert all(seconds_of(fold.training) == 450.0 for fold in folds)
