"""What counts as a change of settings when a run is resumed."""

from __future__ import annotations

from typing import Any

from bcfusion.training.resumed_settings import changed_settings

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
