"""What counts as a change of settings when a run is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, open_dict

from bcfusion.configuration.compose import plain
from bcfusion.errors import ConfigError
from bcfusion.run.layout import RunDir
from bcfusion.run.record import Provenance, write_record
from bcfusion.training.resumed_settings import changed_settings, keep_settings, kept_choices

AUGMENTATION = "bcfusion.data.loading.augmentation.Augmentation"


def lines(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return list(map(str, changed_settings(before, now)))


def test_an_argument_that_an_earlier_version_lacked_changes_nothing_at_its_default() -> None:
    before = {"data": {"augmentation": {"_target_": AUGMENTATION, "polarity": 0.0}}}

    def now(**added: object) -> dict[str, object]:
        return {"data": {"augmentation": {"_target_": AUGMENTATION, "polarity": 0.0, **added}}}

    assert lines(before, now(body_band_octaves=[0.5, 1.5], body_equalisation=None)) == []
    assert lines(before, now(body_equalisation=3)) == ["data.augmentation.body_equalisation: was None, now 3"]
    assert lines(before, now(nonsense=0)) == ["data.augmentation.nonsense: was None, now 0"]
    assert lines(now(body_band_mask=0.1), before) == ["data.augmentation.body_band_mask: was 0.1, now None"]


def test_the_workers_of_a_critic_may_change_and_what_it_learns_may_not() -> None:
    before = {"critics": {"pesq": {"workers": 2, "delay": 4}}}
    assert lines(before, {"critics": {"pesq": {"workers": 8, "delay": 4}}}) == []
    assert lines(before, {"critics": {"pesq": {"workers": 2, "delay": 5}}}) == ["critics.pesq.delay: was 4, now 5"]


def test_null_and_absent_are_one() -> None:
    assert lines({"data": {}}, {"data": {"speakers": None}}) == []
    assert lines({"data": {"speakers": None}}, {"data": {}}) == []


Compose = Callable[..., DictConfig]
MIXTURE = [
    *("data=mixture", "+data.parts.one={}", "+data.parts.two={}", "+data.parts.three={}"),
    *("+data.shares.one=0.2", "+data.shares.two=0.3"),
]


def resumed(before: DictConfig, now: DictConfig, run: Path, typed: list[str], first: list[str]) -> dict[str, Any]:
    """What a run is resumed with that was started with ``first`` and is resumed with ``typed``."""
    content = plain(before)
    start = Provenance("bone_to_air", command=["bcfusion"], overrides=first, choices={"degradation": "first"})
    write_record(run, content, start, None)
    keep_settings(now, content, RunDir(run), Provenance("bone_to_air", command=["bcfusion"], overrides=typed))
    return plain(now)


def test_what_follows_a_key_that_is_undone_is_undone_with_it(composed: Compose, tmp_path: Path) -> None:
    before = composed(*MIXTURE)
    changed = composed(*MIXTURE[:-1], "+data.shares.two=0.5")  # as in a YAML file
    found = resumed(before, changed, tmp_path, MIXTURE, MIXTURE)
    assert found["data"] == plain(before)["data"]


def test_a_node_that_followed_another_key_and_does_not_any_more_is_undone(composed: Compose, tmp_path: Path) -> None:
    before = composed(*MIXTURE)
    with open_dict(before):
        before.data.corpus.shares = {"one": 0.7}
    found = resumed(before, composed(*MIXTURE), tmp_path, MIXTURE, MIXTURE)
    assert found["data"]["corpus"]["shares"] == {"one": 0.7}


@pytest.mark.parametrize("typed", ["debug=overfit", "debug=quick", "experiment=eben", "data.batch_size=3"])
def test_a_choice_that_sets_keys_of_other_sections_is_refused(composed: Compose, tmp_path: Path, typed: str) -> None:
    first = ["experiment=seanet"]
    words = [typed] if typed.startswith("experiment") else [*first, typed]
    with pytest.raises(ConfigError, match="keeps the settings it was started with"):
        resumed(composed(*first), composed(*words), tmp_path, words, first)


def test_a_free_key_changes_what_follows_it(composed: Compose, tmp_path: Path) -> None:
    first = ["experiment=seanet", "data=folder", "data.root=/speech"]
    words = [*first, "data.max_unreadable_share=0.3"]
    found = resumed(composed(*first), composed(*words), tmp_path, words, first)
    assert found["data"]["corpus"]["max_unreadable_share"] == 0.3


def test_members_keep_their_order_by_which_states_of_optimisers_are_saved(composed: Compose, tmp_path: Path) -> None:
    first = ["experiment=seanet", "discriminators=[hifigan_mpd,hifigan_msd]"]
    for now in (
        "[hifigan_msd]",
        "[hifigan_msd,hifigan_mpd]",
    ):  # one was left out of the YAML, or both are in another order
        changed = composed("experiment=seanet", f"discriminators={now}")
        found = resumed(composed(*first), changed, tmp_path, first, first)
        assert list(found["discriminators"]) == ["hifigan_mpd", "hifigan_msd"]


def test_the_record_keeps_the_choices_of_the_run(composed: Compose, tmp_path: Path) -> None:
    first = ["experiment=seanet"]
    resumed(composed(*first), composed(*first), tmp_path, first, first)
    now = Provenance("bone_to_air", choices={"degradation": "second", "logger": "wandb"})
    assert kept_choices(RunDir(tmp_path), now).choices == {"degradation": "first", "logger": "wandb"}
