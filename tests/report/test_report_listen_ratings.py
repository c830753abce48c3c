from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from bcfusion.errors import DataError
from bcfusion.report.listening.analysis import analyse
from bcfusion.report.listening.ratings import Session, Trial, read_ratings


def sliders(key: str, *trials: dict[str, float], reference: str = "target") -> Session:
    rated = [
        Trial(f"u{place}", scores, reference if reference in scores else "") for place, scores in enumerate(trials)
    ]
    return Session(key, key, tuple(rated))


def choices(key: str, *preferred: str) -> Session:
    rated = [Trial(f"u{place}", {}, pair=("a", "b"), preferred=choice) for place, choice in enumerate(preferred)]
    return Session(key, key, tuple(rated))


def test_means_with_intervals_the_best_first() -> None:
    rng = np.random.default_rng(0)
    low, high = 40 + rng.normal(0, 5, 40), 60 + rng.normal(0, 5, 40)
    analysis = analyse([sliders("x", *({"a": a, "b": b, "target": 100.0} for a, b in zip(low, high, strict=True)))])
    assert [one.system for one in analysis.means] == ["target", "b", "a"]
    of_b = analysis.means[1]
    assert of_b.mean == pytest.approx(high.mean())
    assert of_b.count == 40
    # the bootstrap agrees with Student's interval where scores are normal
    half = scipy.stats.t.ppf(0.975, 39) * high.std(ddof=1) / 40**0.5
    assert (of_b.low, of_b.high) == pytest.approx((high.mean() - half, high.mean() + half), abs=0.25 * half)


def test_two_systems_are_compared_within_trials() -> None:
    """The listeners' scales differ by far more than the systems do."""
    trials = [{"a": base, "b": base + 3 + place % 2} for place, base in enumerate(np.linspace(10, 90, 12))]
    (test,) = analyse([sliders("x", *trials)]).tests
    assert (test.first, test.second, test.count) == ("a", "b", 12)
    assert test.mean == pytest.approx(3.5)
    assert test.low > 2.9
    assert test.p < 0.001


def test_p_values_are_corrected_for_the_number_of_tests() -> None:
    rng = np.random.default_rng(1)
    trials = [{name: float(50 + 3 * at + rng.normal(0, 8)) for at, name in enumerate("abc")} for _ in range(20)]
    analysis = analyse([sliders("x", *trials)])
    raw = {
        (test.first, test.second): scipy.stats.wilcoxon([t[test.second] - t[test.first] for t in trials]).pvalue
        for test in analysis.tests
    }
    smallest = min(raw, key=lambda pair: raw[pair])
    adjusted = {(test.first, test.second): test.p for test in analysis.tests}
    assert adjusted[smallest] == pytest.approx(min(1, 3 * raw[smallest]))
    largest = max(raw, key=lambda pair: raw[pair])
    assert adjusted[largest] == pytest.approx(max(raw[largest], *adjusted.values()))


def test_equal_systems_have_no_difference() -> None:
    (test,) = analyse([sliders("x", *({"a": 50.0, "b": 50.0} for _ in range(5)))]).tests
    assert (test.mean, test.p) == (0.0, 1.0)


def test_a_listener_who_misses_the_hidden_reference_is_left_out() -> None:
    good = sliders("good", *({"a": 40.0, "target": 100.0} for _ in range(7)))
    # one of seven below 90 is 14 %, two are 29 %
    fair = sliders("fair", *({"a": 40.0, "target": 80.0 if place == 0 else 95.0} for place in range(7)))
    poor = sliders("poor", *({"a": 90.0, "target": 80.0 if place < 2 else 95.0} for place in range(7)))
    analysis = analyse([good, fair, poor])
    assert analysis.listeners == ("good", "fair")
    assert analysis.screened == ("from MUSHRA: poor, who rated the hidden reference under 90 in 2 of 7 trials",)
    assert {one.system: one.mean for one in analysis.means}["a"] == 40.0
    assert len(analyse([good, fair, poor], screening=False).listeners) == 3


def test_preferences_have_an_exact_test_and_count_ties_separately() -> None:
    (found,) = analyse([choices("x", "b", "b", "b", "b", "b", "b", "b", "b", "a", "")]).preferences
    assert (found.first_better, found.second_better, found.equal) == (1, 8, 1)
    assert found.share == pytest.approx(8 / 9)
    assert found.p == pytest.approx(2 * (9 + 1) / 2**9)  # one or none of nine, on either side
    assert found.low < 0.65 < 0.98 < found.high < 1


def test_preferences_of_several_pairs_are_corrected_for_their_number() -> None:
    def rated(key: str, other: str, count: int) -> Session:
        return Session(
            key, key, tuple(Trial(f"u{place}", {}, pair=("a", other), preferred=other) for place in range(count))
        )

    found = {one.second: one.p for one in analyse([rated("x", "b", 8), rated("x", "c", 6)]).preferences}
    assert found == pytest.approx({"b": 2 * 2 / 2**8, "c": 2 / 2**6})  # Holm: the smaller p twice, the larger once


def test_ratings_of_different_pages_are_reported() -> None:
    one, other = choices("x", "a"), choices("y", "b")
    assert "pages" not in analyse([one, other]).markdown()
    text = analyse([one, Session("z", "z", other.trials, page="another")]).markdown()
    assert "The ratings are of 2 pages; systems of the same name are taken to be the same." in text


def test_a_session_saved_twice_counts_once_with_the_last_rating_of_a_trial() -> None:
    early, late = choices("x", "a"), choices("x", "b", "b")
    (found,) = analyse([early, late]).preferences
    assert (found.first_better, found.second_better) == (0, 2)
    (found,) = analyse([early, choices("y", "b", "b")]).preferences
    assert (found.first_better, found.second_better) == (1, 2)


def test_the_tables_are_markdown_that_keeps_names_whole() -> None:
    session = sliders("li|st<b>", *({"a|b": float(10 * place), "target": 100.0} for place in range(4)))
    text = analyse([session]).markdown()
    assert r"| a\|b | 4 | 15.0 [" in text
    assert "<b>" not in text
    assert "1 listener: li|st&lt;b>" in text
    assert (
        "| < 0.001 |"
        in analyse([sliders("x", *({"a": 10.0 + place, "b": 50.0 + 2 * place} for place in range(20)))]).markdown()
    )


CONTENT: dict[str, Any] = {
    "format": "bcfusion-ratings",
    "version": 1,
    "listener": "",
    "session": "abc",
    "ratings": [{"mode": "ab", "utterance": "u", "trial": 1, "a": "x", "b": "y", "choice": "none", "seconds": 1.0}],
}


def test_without_a_name_the_session_is_the_listener(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(CONTENT))
    assert read_ratings(tmp_path / "r.json") == Session("abc", "abc", (Trial("u", {}, pair=("x", "y")),))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[]", "format"),
        ("{", "JSONDecodeError"),
        (json.dumps(CONTENT | {"version": 2}), "version 1"),
        (json.dumps(CONTENT | {"ratings": [{"mode": "ab", "utterance": "u"}]}), "KeyError"),
        (json.dumps(CONTENT | {"ratings": [{"mode": "?", "utterance": "u"}]}), "unknown mode"),
        (
            json.dumps(
                CONTENT
                | {
                    "ratings": [
                        {"mode": "mushra", "utterance": "u", "scores": [{"system": "a", "score": 101, "role": ""}]}
                    ]
                }
            ),
            "0 to 100",
        ),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(DataError, match=f"r.json: not the ratings.*{what}"):
        read_ratings(tmp_path / "r.json")


def test_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("listener,session\n")
    with pytest.raises(DataError, match="it is empty"):
        read_ratings(tmp_path / "r.csv")
    with pytest.raises(DataError, match="no rating"):
        analyse([Session("a", "a", ())])
    with pytest.raises(DataError, match="No such file"):
        read_ratings(tmp_path / "missing.json")
