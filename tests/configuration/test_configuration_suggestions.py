"""What a mistyped key was meant to be, which added keys somebody reads, and which kinds of plain values there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from bcfusion.configuration.additions import Addition, addition_problems, trainer_arguments
from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.kinds import kind_problems
from bcfusion.configuration.suggestions import group_with, unknown_key
from bcfusion.configuration.targets import misfit


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    """The shipped configuration, unresolved."""
    from hydra import compose, initialize_config_dir

    from bcfusion.configuration.paths import conf_dir

    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["experiment=cpu/seanet"])
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("lr=1e-3", "lr: there is no such key; did you mean 'optimizer.lr'?\nwrite optimizer.lr=1e-3"),
        ("optimiser.lr=1", "did you mean 'optimizer.lr'?\nwrite optimizer.lr=1"),
        ("trainer.lr=1", "did you mean 'optimizer.lr'?"),
        ("trainer.max_step=10", "did you mean 'trainer.max_steps'?\nwrite trainer.max_steps=10"),
        ("batch_size=4", "write data.batch_size=4"),
        ("data.bath_size=4", "write data.batch_size=4"),
        ("channels=16", "write generator.channels=16"),
        ("minutes=5", "write budget.minutes=5"),
        ("sensors=[body,noisy]", "write 'task.sensors=[body,noisy]'"),
        ("model=eben", "write generator=eben"),
        ("learning_rate=1e-4", "write optimizer.lr=1e-4"),
        ("experimnt=seanet", "write experiment=seanet"),
        # a key of a member that is not chosen
        (
            "data.root=/x y",
            "a key of data=folder and data=shards, which is not chosen\nwrite data=folder 'data.root=/x y'",
        ),
        ("scheduler.lowest=1", "write scheduler=cosine scheduler.lowest=1"),
        ("scheduler.gamma=0.9", "write scheduler=exponential scheduler.gamma=0.9"),
        ("losses.phase.weight=2", "write 'losses=[l1,mr_stft,feature_matching,phase]' losses.phase.weight=2"),
        # an argument of the class that no YAML sets
        ("data.corpus.seed=3", "to set it write +data.corpus.seed=3"),
        ("discriminators.melgan_msd.weight=0", "to leave melgan_msd out write 'discriminators=[]'"),
    ],
)
def test_a_mistyped_key_is_answered_with_what_can_be_pasted(tree: dict[str, Any], typed: str, answer: str) -> None:
    key, _, value = typed.partition("=")
    assert answer in str(unknown_key(key, value, tree))


def test_an_entry_of_an_open_mapping_is_added_unless_it_resembles_one() -> None:
    tree = {"data": {"parts": {"pairs": None, "speech": None, "throat2": "t.jsonl"}, "shares": {"pairs": 0.5}}}
    answer = unknown_key("data.shares.throat2", "0.1", tree)
    assert answer == "data.shares.throat2: data.shares has only pairs\nto add throat2 write +data.shares.throat2=0.1"
    assert "write data.parts.pairs=p.jsonl" in str(unknown_key("data.parts.pair", "p.jsonl", tree))


def test_a_value_of_another_unit_is_not_pasted(tree: dict[str, Any]) -> None:
    answer = unknown_key("epochs", "100", tree)
    assert answer == "epochs: there is no such key; did you mean 'trainer.max_steps'?"


@pytest.mark.parametrize("key", ["foo", "trainer.foo", "optimizer.xyz", "zzz.lorem"])
def test_nothing_is_guessed_for_a_key_that_resembles_nothing(tree: dict[str, Any], key: str) -> None:
    assert unknown_key(key, "1", tree) is None


def addition(text: str) -> Addition:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(text)
    value = None if parsed.is_sweep_override() else parsed.value()
    return Addition(parsed.key_or_group, value, text.partition("=")[2])


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("+lr=1e-3", "did you mean 'optimizer.lr'?\nwrite optimizer.lr=1e-3"),
        ("++lr=1,2", "write optimizer.lr=1,2"),
        ("+foo=1", "+foo: nothing reads this key"),
        ("+foo.bar=1", "+foo.bar: nothing reads this key"),
        ("+trainer.foo=1", "+trainer.foo: nothing reads this key"),
        ("+trainer.clip.foo=1", "+trainer.clip.foo: nothing reads this key"),
        ("+task.foo=1", "+task.foo: nothing reads this key"),
        ("+budget.hours=1", "did you mean 'budget.minutes'?"),
        ("+data.root=/x", "write data=folder data.root=/x"),
        ("+losses.mine=3", "an entry of losses is a mapping"),
        ("+selection.lsd=3", "as in '+selection.lsd={weight:1,worst:0,best:1}'"),
        ("+callbacks.mine=x", "an entry of callbacks is a mapping"),
        ("+trainer.gradient_clip_val=1", "bcfusion sets this argument itself; see trainer.clip.generator"),
        ("+trainer.max_epochs=3", "see trainer.max_steps"),
    ],
)
def test_a_key_that_nobody_reads_cannot_be_added(tree: dict[str, Any], typed: str, answer: str) -> None:
    [problem] = addition_problems([addition(typed)], tree, ["generator.channels=${width.a}"])
    assert answer in problem


@pytest.mark.parametrize(
    "typed",
    [
        "+losses.mine={_target_:my.Loss,weight:1}",
        "+losses.mine.weight=1",  # beside +losses.mine._target_
        "+degradation.ear={_target_:my.Sensor}",
        "+selection.lsd={weight:1,worst:3,best:0}",
        "+generator.anything=1",  # judged with the arguments of the class
        "+optimizer.generator.eps=1e-9",
        "+data.corpus.splits.dev=dev",
        "+trainer.profiler=simple",
        "+trainer.detect_anomaly=true",
        "+width.a=3",  # read by an interpolation of another override
        "+width={a:3}",
    ],
)
def test_what_somebody_reads_can_be_added(tree: dict[str, Any], typed: str) -> None:
    assert addition_problems([addition(typed)], tree, ["generator.channels=${width.a}"]) == []


def test_additions_that_lightning_takes_reach_its_trainer(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("+trainer.profiler=simple", "+trainer.my_note=x", "+trainer.max_time=3")
    assert trainer_arguments(cfg.trainer) == {"profiler": "simple"}


def test_a_member_is_found_in_every_group_and_in_the_users_own(tmp_path: Path) -> None:
    assert group_with("seanet") == ["experiment", "generator"]
    assert group_with("bone_to_air") == ["recipe"]
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "mine.yaml").touch()
    assert group_with("mine", [tmp_path]) == ["losses"]


# ---------------------------------------------------------------- kinds of values


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("trainer.compile", "yes", "must be true or false, not 'yes'; write trainer.compile=true"),
        ("trainer.deterministic", "off", "must be true or false, not 'off'; write trainer.deterministic=false"),
        ("data.resample", 1, "must be true or false, not 1"),
        ("task.sensors", "body", "must be a list, not 'body'; write 'task.sensors=[body]'"),
        ("trainer.keep_best", "stoi", "must be a list, not 'stoi'; write 'trainer.keep_best=[stoi]'"),
        ("trainer.keep_best", None, "must be a list, not null; write 'trainer.keep_best=[]'"),
        ("trainer.strategy", "dpp", "Lightning has no strategy 'dpp'; did you mean 'ddp'?"),
        ("budget", 30, "holds minutes, and cannot be 30; write budget.minutes=30"),
        ("trainer.clip", 1.0, "holds generator, discriminator, and cannot be 1.0; write trainer.clip.generator=1.0"),
        ("losses.l1", None, "must be a mapping with _target_, not null; to leave it out write ~losses.l1"),
        ("trainer.environment", "slurm", "must be a mapping with _target_, or null, not 'slurm'; for Slurm write"),
    ],
)
def test_a_list_or_a_switch_stays_one(path: str, value: object, problem: str) -> None:
    tree: dict[str, Any] = {}
    node = tree
    *sections, last = path.split(".")
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    [found] = kind_problems(tree)
    assert found.startswith(f"{path}: {problem}")


def test_the_shipped_configuration_has_values_of_the_right_kinds(tree: dict[str, Any]) -> None:
    assert kind_problems(tree) == []
    assert kind_problems({"trainer": {"strategy": "ddp"}}) == []


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ([2, 4, "x"], "Sequence[int]", "a list of whole numbers"),
        ("2", "list[int]", "a list of whole numbers"),
        ([2.5], "tuple[int, ...]", "a list of whole numbers"),
        ([1, 2, 3], "tuple[float, float]", "a list of 2 numbers"),
        ([[1, "x"]], "Sequence[Sequence[int]]", "a list of lists"),
        ("x", "Sequence[float] | None", "a list of numbers or null"),
        ([2, 4], "Sequence[int]", None),
        ([1, 2.5], "tuple[float, float]", None),
        ([[1, 2]], "Sequence[Sequence[int]]", None),
        (["x", object()], "list[object]", None),
        (None, "Sequence[float] | None", None),
    ],
)
def test_lists_are_judged_with_their_items(value: object, hint: str, expected: str | None) -> None:
    from collections.abc import Sequence

    assert misfit(value, eval(hint, {"Sequence": Sequence})) == expected
