"""The search space in Hydra's notation."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna", minversion="4.3", reason="hparams_search needs optuna 4.3 or later")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bcfusion.errors import ConfigError
from bcfusion.search.space import examples, read_space


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ("1e-4,3e-4", CategoricalDistribution(["0.0001", "0.0003"])),
        ("choice(seanet,eben)", CategoricalDistribution(["seanet", "eben"])),
        ("range(8,33,8)", IntDistribution(8, 32, step=8)),
        ("range(0.0,1.0,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("interval(1,5)", FloatDistribution(1.0, 5.0)),
        ("int(interval(1,5))", IntDistribution(1, 5)),
        ("tag(log,int(interval(1,8)))", IntDistribution(1, 8, log=True)),
        ("int(tag(log,interval(1,8)))", IntDistribution(1, 8, log=True)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
    ],
)
def test_each_notation_becomes_its_distribution(value: str, distribution: object) -> None:
    space, fixed = read_space([f"a.b={value}", "c=x"], {})
    assert space == {"a.b": distribution}
    assert fixed == {"c": "x"}


def test_typed_overrides_win_over_the_file() -> None:
    params = {"a": "interval(0.0,1.0)", "b": "1,2"}
    space, fixed = read_space(["a=0.5"], params)
    assert list(space) == ["b"]
    assert fixed == {"a": "0.5"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("1", "nothing varies"),
        ("range(5,5)", "the range is empty"),
        ("interval(2.0,1.0)", "a=interval"),
        ("interval(0,inf)", "the interval is unbounded"),
        ("tag(log,interval(0,1))", "low > 0"),
        ("tag(lgo,interval(1,2))", "the only known tag"),
        ("tag(log,range(1,9))", "the only known tag"),
        ("tag(log,choice(1,9))", "the only known tag"),
    ],
)
def test_an_empty_space_or_an_unknown_tag_is_refused(value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_space([f"a={value}"], {})


def test_examples_show_each_choice_once() -> None:
    space, _ = read_space(["a=1,2,3", "b=x,y", "c=interval(0.5,1)"], {})
    assert list(examples(space)) == [
        {"a": "1", "b": "x", "c": 0.5},
        {"a": "2", "b": "x", "c": 0.5},
        {"a": "3", "b": "x", "c": 0.5},
        {"a": "1", "b": "y", "c": 0.5},
    ]


@pytest.mark.parametrize("key", ["selection", "selection.stoi.weight"])
def test_the_selection_cannot_vary(key: str) -> None:
    with pytest.raises(ConfigError, match="selection: a search compares its jobs by it"):
        read_space([f"{key}=1,2"], {})
    read_space([f"{key}=1", "selection_of_mine=1,2"], {})
