from __future__ import annotations

import pytest

from bcfusion.evaluation.sample_files import Sample, parse, picture_name, sound_name
from bcfusion.evaluation.systems import input_names, is_input

LONG = "p1/" + "a" * 90
IDS = ["p1/u.1", f"x/{LONG}", f"y/{LONG}", "p1_u.1"]
SYSTEMS = ["input", *input_names(["body", "noisy air"]), "enhanced"]


@pytest.mark.parametrize("index", range(len(IDS)))
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_name_gives_back_utterance_and_system(index: int, system: str) -> None:
    name = sound_name(index, IDS[index], system)
    assert "/" not in name
    assert parse(name, IDS, SYSTEMS) == Sample(index, IDS[index], system)


def test_without_the_scores_the_id_stays_short_and_inputs_are_still_known() -> None:
    assert parse("0-p1_u.1.input_body.wav") == Sample(0, "p1_u.1", "input (body)")
    assert parse("12-u-3.target.wav") == Sample(12, "u-3", "target")
    assert parse(sound_name(7, LONG, "enhanced")) == Sample(7, "a" * 80, "enhanced")


@pytest.mark.parametrize("name", ["u.enhanced.wav", "0-u.wav", picture_name(0, "u"), "0-.enhanced.wav"])
def test_other_files_are_no_samples(name: str) -> None:
    assert parse(name, IDS, SYSTEMS) is None


def test_inputs_are_known_by_their_names() -> None:
    assert [*map(is_input, input_names(["body"])), *map(is_input, input_names(["body", "noisy"]))] == [True] * 3
    assert not is_input("enhanced")
    assert not is_input("inputs")


@pytest.mark.parametrize("letter", ["a", "é", "語", "😀"])
def test_names_of_any_alphabet_fit_into_the_255_bytes_of_a_file_system(letter: str) -> None:
    ids = [f"speaker/{letter * 250}{number}" for number in range(3)]
    for number, item in enumerate(ids):
        name = sound_name(number, item, "input (body)")
        assert len(name.encode()) < 200
        assert parse(name, ids, ["input (body)"]) == (number, item, "input (body)")
