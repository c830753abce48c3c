from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import made_up_run, utterances
from pictures import assert_nothing_is_covered
from rich.console import Console

from bcfusion.errors import ConfigError
from bcfusion.report.colours import FIXED, PALETTE, colour_of, marker_of
from bcfusion.report.comparison.compare import Comparison, compare, compare_recipes, notes
from bcfusion.report.comparison.curves import curves_figure, distributions_figure
from bcfusion.report.comparison.differences import (
    common_utterances,
    differences,
    differences_csv,
    differences_markdown,
    sentences,
)
from bcfusion.report.comparison.inputs import other_inputs
from bcfusion.report.comparison.keys import Condition, fact, known_key
from bcfusion.report.comparison.names import changed_keys, run_names, shortened
from bcfusion.report.comparison.reference import against_reference, place_of, require_reference
from bcfusion.report.comparison.run import Run, read_run
from bcfusion.report.comparison.tables import csv_table, latex_runs, markdown_runs, terminal_table
from bcfusion.run.jobs import FAILED


def run(folder: Path, *overrides: str, **arguments: Any) -> Run:
    return read_run(made_up_run(folder, *overrides, **arguments))


def with_lr(lr: float, **more: Any) -> dict[str, Any]:
    return {"optimizer": {"lr": lr, "generator": {"lr": lr}}, **more}


@pytest.fixture
def sweep(tmp_path: Path) -> list[Run]:
    """Three learning rates; the best is the last."""
    rates = ((1e-4, 0.70), (3e-4, 0.75), (1e-3, 0.82))
    return [
        run(tmp_path / str(job), f"optimizer.lr={lr}", settings=with_lr(lr), valid_stoi=(0.65, stoi))
        for job, (lr, stoi) in enumerate(rates)
    ]


# ------------------------------------------------------------------ what distinguishes runs


def test_only_differing_keys_are_listed_and_not_their_copies(sweep: list[Run]) -> None:
    assert changed_keys(sweep) == ["optimizer.lr"]  # optimizer.generator.lr is its copy
    assert run_names(sweep) == ["seanet lr=0.0001", "seanet lr=0.0003", "seanet lr=0.001"]


def test_keys_that_follow_from_a_choice_are_not_listed(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", experiment="seanet", settings={"generator": {"channels": 8, "strides": [2, 2]}}),
        run(tmp_path / "b", experiment="eben", settings={"generator": {"bands": 4}}),
    ]
    assert changed_keys(runs) == []
    assert run_names(runs) == ["seanet", "eben"]


def test_an_edit_of_a_yaml_file_between_two_runs_is_listed(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", settings={"losses": {"l1": {"weight": 1.0}}}),
        run(tmp_path / "b", settings={"losses": {"l1": {"weight": 100.0}}}),
    ]
    assert changed_keys(runs) == ["losses.l1.weight"]
    assert run_names(runs) == ["seanet weight=1", "seanet weight=100"]


def test_a_typed_member_is_listed_by_its_name(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", "data=folder", choices={"data": "folder"}), run(tmp_path / "b")]
    assert changed_keys(runs) == ["data"]
    assert run_names(runs) == ["seanet data=folder", "seanet data=demo"]


def test_a_run_of_a_whole_configuration_names_no_members_but_its_losses(tmp_path: Path) -> None:
    whole = replace(run(tmp_path / "a", settings={"data": {"batch_size": 4, "workers": 0}}), choices={})
    assert fact(whole, "data") is None
    assert fact(whole, "losses") == "l1"


def test_a_long_name_is_better_than_the_same_name_twice(tmp_path: Path) -> None:
    long = "losses=[l1,mr_stft,feature_matching,pesq_surrogate]"
    runs = [
        run(tmp_path / "a", "losses=[l1,mr_stft]"),
        run(tmp_path / "b", "losses=[l1,mr_stft]", "critics=[metric_gan]", choices={"critics": ["metric_gan"]}),
        run(tmp_path / "c", long, "critics=[metric_gan_stoi]", choices={"critics": ["metric_gan_stoi"]}),
    ]
    names = run_names(runs)
    assert len(set(names)) == 3
    assert not any(name.endswith(")") for name in names)
    assert "metric_gan" in names[1]


def test_equal_runs_are_numbered(tmp_path: Path) -> None:
    assert run_names([run(tmp_path / "a"), run(tmp_path / "b")]) == ["seanet (1)", "seanet (2)"]


@pytest.mark.parametrize(
    ("condition", "jobs"),
    [
        ("optimizer.lr=3e-4", [1]),
        ("lr<=0.0003", [0, 1]),
        ("lr!=0.001", [0, 1]),
        ("stoi>0.72", [1, 2]),
        ("experiment=eben,sea*", [0, 1, 2]),
        ("experiment!=sea*", []),
        ("state=finished", [0, 1, 2]),
        ("parameters>=20", [0, 1, 2]),
        ("generator<3", []),  # text has no order
    ],
)
def test_conditions_compare_numbers_as_numbers_and_texts_as_patterns(
    sweep: list[Run], condition: str, jobs: list[int]
) -> None:
    assert [job for job, each in enumerate(sweep) if Condition.parse(condition).holds(each)] == jobs


@pytest.mark.parametrize("text", ["stoi", "stoi=", "=3", "stoi>high"])
def test_a_condition_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        Condition.parse(text)


def test_a_mistyped_key_gets_the_nearest_as_a_hint(sweep: list[Run]) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lrr: no run has such a key; did you mean 'optimizer\.lr'"):
        known_key(sweep, "optimizer.lrr")
    assert fact(sweep[0], "nothing.at.all") is None


# ------------------------------------------------------------------ the table


def test_the_best_comes_first_by_the_direction_of_the_metric(sweep: list[Run]) -> None:
    assert compare(sweep).names == ("seanet lr=0.001", "seanet lr=0.0003", "seanet lr=0.0001")
    assert compare(sweep, "lr").runs == tuple(sweep)
    assert compare(sweep, "stoi", reverse=True).runs == tuple(sweep)
    assert compare(sweep, "parameters").keys == ("optimizer.lr",)
    assert compare(sweep, "generator.channels").keys == ("optimizer.lr", "generator.channels")


def test_lower_is_better_for_lsd_and_runs_without_it_come_last(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", finished=False),
        run(tmp_path / "b", closing=utterances(0.8, lsd=1.5)),
        run(tmp_path / "c", closing=utterances(0.8, lsd=1.2)),
    ]
    for each in runs[1:]:
        table = each.path / "metrics.csv"
        table.write_text(table.read_text().replace("best/stoi", "best/lsd"))
    ordered = compare(runs, "lsd", which="closing").runs
    assert [each.path.name for each in ordered] == ["c", "b", "a"]


def test_a_run_without_validation_comes_last_and_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(step), valid_stoi=(0.5,) * step) for step in (2, 10)]
    begun = run(tmp_path / "begun", finished=False, choices={"selection": "pesq_stoi"}, valid_stoi=())
    (begun.path / "metrics.csv").write_text("step,loss/l1\n25,0.5\n")
    runs = [read_run(begun.path), *runs]
    assert compare(runs).runs[-1] is runs[0]  # the choice of the group "selection" is no score
    assert [each.path.name for each in compare(runs, "best_step").runs] == ["2", "10", "begun"]
    settings = [run(tmp_path / name, f"seed={name}", settings={"seed": seed}) for name, seed in (("x", "x"), ("y", 10))]
    ordered = compare([*settings, run(tmp_path / "z", "seed=2", settings={"seed": 2})], "seed").runs
    assert [each.settings["seed"] for each in ordered] == [2, 10, "x"]


def test_the_table_shows_input_settings_scores_size_and_speed(sweep: list[Run]) -> None:
    table = markdown_runs(compare(sweep))
    heads, _, given, best, *_ = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    row = dict(zip(heads, best, strict=True))
    assert row["optimizer.lr"] == "0.001"
    assert row["STOI ↑"] == "**0.820**"
    assert row["best/last step"] == "200/200"
    assert (row["params (M)"], row["latency (ms)"], row["steps/s"]) == ("0.00", "20.0", "3.00")
    assert row["path"] == f"`{sweep[2].path}`"
    assert given[:4] == ["", "input", "0.600", ""]  # ranks, names and scores come first


def test_many_changed_keys_share_a_column_of_unusual_values(tmp_path: Path) -> None:
    values = [(1, 8, "a", None), (2, 8, "a", "x"), (3, 8, "b", None), (4, 16, "b", None), (5, 8, "b", None)]
    runs = []
    for seed, size, root, noise in values:
        typed = [
            f"seed={seed}",
            f"data.batch_size={size}",
            f"data.root={root}",
            *([f"data.noise={noise}"] if noise else []),
        ]
        data = {"batch_size": size, "root": root, "noise": noise}
        runs.append(run(tmp_path / str(seed), *typed, settings={"seed": seed, "data": data}))
    comparison = compare(runs, "seed")
    heads, _, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown_runs(comparison).splitlines()
    ]
    assert [row[heads.index("changed keys")] for row in rows] == [
        "data.root=a",  # the first seed is the usual one where all differ
        "seed=2, data.root=a, data.noise=x",
        "seed=3",
        "seed=4, data.batch_size=16",
        "seed=5",
    ]
    assert notes(comparison) == ["changed keys that a row does not name: seed=1, data.batch_size=8, data.root=b"]


@pytest.mark.parametrize("width", [200, *range(46, 90, 4)])
def test_a_narrow_terminal_keeps_scores_cuts_no_text_and_reports_columns_left_out(sweep: list[Run], width: int) -> None:
    file = io.StringIO()
    console = Console(width=width, file=file)
    table, left_out = terminal_table(compare(sweep), console)
    console.print(table)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "0.820" in text
    parts = {"time (min)": ("time", "(min)"), "latency (ms)": ("latency", "20.0"), "steps/s": ("steps/s", "3.00")}
    for head, words in parts.items():
        assert all((word in text) != (head in left_out) for word in words), head
    assert bool(left_out) == (width < 84)


def test_failed_and_unfinished_runs_have_a_row_and_a_reason(sweep: list[Run], tmp_path: Path) -> None:
    (made_up_run(tmp_path / "failed", "seed=1", finished=False) / FAILED).write_text("MemoryError: too big\n")
    stopped = run(tmp_path / "stopped", "seed=2", finished=False, valid_stoi=(0.9,))
    comparison = compare([read_run(tmp_path / "failed"), *sweep, stopped])
    assert [each.state for each in comparison.runs] == ["unfinished", *["finished"] * 3, "failed"]
    lines = notes(comparison)
    assert any("unfinished: at step 100, best at step 100" in line for line in lines)
    assert any("failed: MemoryError: too big" in line for line in lines)


def test_overrides_of_a_failed_job_compare_with_settings_of_others(tmp_path: Path) -> None:
    data = {"root": "/home/speech"}  # recorded absolute, while the failed job has it as typed
    made_up_run(
        tmp_path / "0",
        "trainer.ema_decay=null",
        "data.root=speech",
        settings={"trainer": {"ema_decay": None}, "data": data},
    )
    failed = tmp_path / "1"
    (failed / ".hydra").mkdir(parents=True)
    (failed / ".hydra" / "overrides.yaml").write_text(
        "[experiment=seanet, trainer.ema_decay=null, data.root=speech, seed=1]\n"
    )
    (failed / "failed.txt").write_text("no memory\n")
    runs = [read_run(tmp_path / "0"), read_run(failed)]
    assert [run.state for run in runs] == ["finished", "failed"]
    assert changed_keys(runs) == ["seed"]


def test_a_run_that_ended_before_its_recipes_length_is_marked(tmp_path: Path) -> None:
    short = run(tmp_path / "a", settings={"trainer": {"max_steps": 300}})
    whole = run(tmp_path / "b", settings={"trainer": {"max_steps": 200}}, valid_stoi=(0.6, 0.7))
    by_time = run(tmp_path / "c", settings={"trainer": {"max_steps": None}}, valid_stoi=(0.5, 0.6))
    stopped = run(tmp_path / "d", settings={"trainer": {"max_steps": 300}}, finished=False)
    assert [each.is_short for each in (short, whole, by_time, stopped)] == [True, False, False, False]
    comparison = compare([short, whole, by_time])
    table = markdown_runs(comparison)
    assert table.count("200/200*") == 1
    assert table.count("200/200 ") == 2
    assert [line for line in notes(comparison) if line.startswith("*")] == [
        "* 1 seanet max_steps=300: ended at step 200 of the 300 of trainer.max_steps"
    ]


def test_notes_name_what_is_not_comparable(tmp_path: Path) -> None:
    selection = {"lsd": {"weight": 1, "worst": 5.0, "best": 0.0}}
    metrics = {"stoi": {"extended": True}}
    other = run(tmp_path / "b", settings={"selection": selection, "metrics": metrics}, input_stoi=0.4)
    lines = "\n".join(notes(compare([run(tmp_path / "a"), other])))
    for part in ("same input", "same selection", "metrics.stoi"):
        assert part in lines
    assert notes(compare([run(tmp_path / "c"), run(tmp_path / "d")])) == []


def test_the_csv_table_has_all_numbers_in_full_precision(sweep: list[Run]) -> None:
    assert (
        compare(sweep).caption
        == "bone_to_air: 3 runs by selection; scores are means over the validation files at the best checkpoint"
    )
    first, *_ = csv.DictReader(io.StringIO(csv_table(compare(sweep))))
    assert (first["rank"], first["optimizer.lr"], first["best/stoi"]) == ("1", "0.001", "0.82")
    assert float(first["closing/lsd"]) == pytest.approx(1.0)
    assert first["parameters"] == "20"


# ------------------------------------------------------------------ differences


def test_a_small_constant_gain_is_clear_in_pairs_though_utterances_differ_more(tmp_path: Path) -> None:
    a = run(tmp_path / "a", closing=utterances(0.800, seed=1))
    b = run(tmp_path / "b", closing=utterances(0.812, seed=2))
    spread = np.std([values[0] for values in utterances(0.8)])
    stoi, lsd = differences(b, a, ["stoi", "lsd", "si_sdr_lag_ms"])
    assert spread > 4 * 0.012
    assert stoi.verdict == "better"
    assert stoi.change.mean == pytest.approx(0.012, abs=1e-5)
    sentence = stoi.sentence("B", "A")
    assert sentence.startswith("B is better than A in STOI by 0.012 [0.01")
    assert differences(a, b, ["stoi"])[0].sentence("A", "B") == sentence.replace("better", "worse").translate(
        str.maketrans("AB", "BA")
    )
    assert lsd.sentence("B", "A") == "no clear difference between B and A in LSD: +0.00 [+0.00, +0.00]"


def test_lower_is_better_for_metrics_of_that_direction(tmp_path: Path) -> None:
    a = run(tmp_path / "a", closing=utterances(0.8, lsd=1.5))
    b = run(tmp_path / "b", closing=utterances(0.8, lsd=1.2))
    (lsd,) = differences(b, a, ["lsd"])
    assert lsd.sentence("B", "A") == "B is better than A in LSD by 0.30 [0.30, 0.30]"
    found = {"B": [lsd]}
    assert "| B | 20 | **−0.30 [−0.30, −0.30]** |" in differences_markdown(found, "A")
    (line,) = csv.DictReader(io.StringIO(differences_csv({"bone_to_air": ("A", found)})))
    assert (line["recipe"], line["verdict"], line["utterances"]) == ("bone_to_air", "better", "20")
    assert float(line["difference"]) == pytest.approx(-0.3)


def test_only_common_utterances_count_and_too_few_are_not_judged(tmp_path: Path) -> None:
    a = run(tmp_path / "a", closing=utterances(0.8, count=1))
    b = run(tmp_path / "b", closing=utterances(0.9, count=20))
    (stoi,) = differences(b, a, ["stoi"])
    assert (stoi.change.count, stoi.verdict) == (1, "not compared")
    assert sentences([stoi], "B", "A") == ["B and A have 1 utterance with STOI in common: too few"]
    assert differences(run(tmp_path / "c", finished=False), a, ["stoi"]) == []


def test_a_clear_difference_is_not_printed_as_none(tmp_path: Path) -> None:
    a = run(tmp_path / "a", closing=[[0.9, 1.0 + 0.1 * number, 0.0] for number in range(9)])
    b = run(tmp_path / "b", closing=[[0.9 + 4e-5, 1.0 + 0.1 * number - 0.0002, 0.0] for number in range(9)])
    stoi, lsd = differences(b, a, ["stoi", "lsd"])
    assert stoi.sentence("B", "A") == "B is better than A in STOI by 0.00004 [0.00004, 0.00004]"
    assert lsd.cell() == "−0.0002 [−0.0002, −0.0002]"


def test_metrics_without_common_utterances_share_a_sentence(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    assert (common_utterances(a, b), common_utterances(a, run(tmp_path / "c", finished=False))) == (20, 0)
    scores = b.path / "quality" / "test.csv"
    scores.write_text(scores.read_text().replace("test/", "other/"))
    b = read_run(b.path)
    assert common_utterances(a, b) == 0
    assert sentences(differences(b, a, ["stoi", "lsd"]), "B", "A") == [
        "B and A have no utterances with STOI, LSD in common: too few"
    ]


def test_a_different_input_is_reported(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", input_stoi=0.4)
    assert other_inputs(a, run(tmp_path / "c")) == ""
    assert other_inputs(b, a) == "its input differs: STOI 0.400 against 0.600"


# ------------------------------------------------------------------ recipes and tasks


def printed(comparison: Comparison, width: int) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file)
    console.print(terminal_table(comparison, console)[0])
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_each_recipe_has_its_table_and_ranks_count_on(tmp_path: Path) -> None:
    scores = {"a": ("fusion", 0.9), "b": ("bone_to_air", 0.7), "c": ("fusion", 0.8), "d": ("bone_to_air", 0.75)}
    runs = [run(tmp_path / name, recipe=recipe, valid_stoi=(stoi,)) for name, (recipe, stoi) in scores.items()]
    fusion, bone = compare_recipes(runs)
    assert [(rank, each.path.name) for rank, _, each in (*fusion.ranked, *bone.ranked)] == [
        *((1, "a"), (2, "c"), (3, "d"), (4, "b")),
    ]
    assert fusion.caption.startswith("fusion: 2 runs by selection")
    assert place_of(bone, "4") == 1
    assert place_of(fusion, "4") is None
    require_reference([fusion, bone], "4")
    with pytest.raises(ConfigError, match="no such run"):
        require_reference([fusion, bone], "5")
    told = [line for each in (fusion, bone) for line in against_reference(each, "4", for_tables=False).lines()]
    assert len([line for line in told if "seanet (2)" in line]) == 2  # STOI and LSD in neither more than its own table
    with io.StringIO(csv_table(fusion, bone)) as text:
        assert [row["recipe"] for row in csv.DictReader(text)] == ["fusion"] * 2 + ["bone_to_air"] * 2


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"input_stoi": 0.4}, "its input differs: STOI 0.400 against 0.600"),
        ({"settings": {"sample_rate": 48000}}, "its sample_rate is 48000, the other's 16000"),
        ({"settings": {"sample_rate": 16000, "task": {"sensors": ["body", "noisy"]}}}, "its task.sensors is"),
    ],
)
def test_a_run_of_another_task_is_not_better_or_worse(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    same = {"settings": {"sample_rate": 16000, "task": {"sensors": ["body"]}}}
    runs = [
        run(tmp_path / "a", experiment="a", valid_stoi=(0.9,), **same),
        run(tmp_path / "b", experiment="b", valid_stoi=(0.8,), **same),
        run(tmp_path / "c", experiment="c", valid_stoi=(0.7,), **{**same, **other}),
    ]
    against = against_reference(compare(runs), None, for_tables=True)
    assert list(against.found) == ["b"]
    (note,) = [line for line in against.lines() if line.startswith("not compared")]
    assert note.startswith(f"not compared to a: c ({why}")
    assert not [line for line in against.lines() if line.startswith("  c ") or " c " in line.partition("(")[0][20:]]


def test_defaults_of_the_task_that_differ_are_listed_though_experiments_set_them(tmp_path: Path) -> None:
    def of(name: str, rate: int, narrow: int, noise: float, degradation: str = "narrowband") -> Run:
        settings = {
            "sample_rate": rate,
            "narrow_rate": narrow,
            "output_root": name,
            "degradation": {"narrow": {"_target_": name, "noise": noise}},
            "generator": {"channels": rate},
        }
        return run(tmp_path / name, experiment=name, settings=settings, choices={"degradation": degradation})

    one = of("one", 16000, 8000, 0.1)
    two = of("two", 48000, 4000, 0.2)
    assert set(changed_keys([one, two])) == {"sample_rate", "narrow_rate", "degradation.narrow.noise"}
    assert changed_keys([one, of("three", 16000, 8000, 0.1, degradation="narrowband_codec")]) == ["degradation"]
    assert changed_keys([one, of("four", 16000, 8000, 0.1)]) == []


@pytest.mark.parametrize("width", [80, 100, 200])
def test_ranks_and_scores_are_the_first_columns_at_any_width(tmp_path: Path, width: int) -> None:
    paths = [f"/data/{'long/' * 6}corpus_{end}" for end in "ab"]
    runs = [
        run(
            tmp_path / end,
            *(f"data.root={path}", "optimizer.lr=0.001", "trainer.precision=bf16-mixed"),
            experiment=f"a_very_long_name_of_an_experiment_that_ends_in_{end}",
            settings={"data": {"root": path}},
            valid_stoi=(stoi,),
        )
        for end, path, stoi in zip("ab", paths, (0.7, 0.8), strict=True)
    ]
    comparison = compare(runs, metrics=["stoi"])
    lines = printed(comparison, width)
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if "STOI" in line)
    assert head.index("#") < head.index("STOI") < head.index("data.root")
    for rank, (line, end) in enumerate(zip(lines[-2:], "ba", strict=True), 1):
        assert line.split()[0] == str(rank)
        assert "…" in line.split()[1]  # cut in the middle, so that its end still tells it apart
        assert line.split()[1].endswith(f"_{end}")
        assert line.split()[2] == {"b": "0.800", "a": "0.700"}[end]
        assert f"corpus_{end}" in line


def test_a_text_is_cut_in_the_middle() -> None:
    assert [shortened("abcdefgh", width) for width in (8, 7, 6, 3)] == ["abcdefgh", "abc…fgh", "abc…gh", "a…h"]


def test_the_latex_table_has_the_best_score_in_bold_and_no_open_special_characters(sweep: list[Run]) -> None:
    text = latex_runs(compare(sweep))
    assert r"1 & seanet lr=0.001 & \textbf{0.820} & 0.00 & 20.0 \\" in text
    assert r"\caption{bone\_to\_air: 3 runs" in text
    assert text.count("{") == text.count("}")


# ------------------------------------------------------------------ pictures


def test_curves_have_units_a_colour_for_each_run_and_a_ring_at_the_best(sweep: list[Run]) -> None:
    runs = dict(zip(run_names(sweep), sweep, strict=True))
    figure = curves_figure(runs, ["stoi"], "title")
    stoi, loss = figure.axes[:2]
    assert (stoi.get_ylabel(), stoi.get_xlabel()) == ("STOI ↑", "training step")
    assert loss.get_yscale() == "log"
    colours = {line.get_label(): line.get_color() for line in stoi.lines if line.get_label() in runs}
    assert colours == {name: colour_of(name, list(runs)) for name in runs}
    assert len(set(colours.values())) == 3
    rings = [tuple(np.asarray(line.get_xdata())) for line in stoi.lines if line.get_fillstyle() == "none"]
    assert rings == [(200,)] * 3
    names = {text.get_text() for legend in [*figure.legends] for text in legend.get_texts()}
    assert names == {*runs, "input"}
    assert_nothing_is_covered(figure)


def test_runs_beyond_the_colours_are_grey_and_counted(tmp_path: Path) -> None:
    runs = {f"seed {seed}": run(tmp_path / str(seed), f"seed={seed}") for seed in range(len(PALETTE) + 2)}
    figure = curves_figure(runs, ["stoi"], "title")
    assert "2 more runs" in {text.get_text() for text in figure.legends[0].get_texts()}
    assert len(distributions_figure(runs, ["stoi"], "title").axes[0].get_yticklabels()) == len(PALETTE) + 1
    grey = [line for line in figure.axes[0].lines if line.get_color() not in (*PALETTE, FIXED["input"])]
    assert len(grey) == 2


def test_a_run_with_only_a_loss_is_in_the_legend_and_nothing_to_draw_gives_no_figure(tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", finished=False, valid_stoi=())
    (begun.path / "metrics.csv").write_text("step,loss/l1\n25,0.5\n50,0.4\n")
    figure = curves_figure({"begun": read_run(begun.path), "a": run(tmp_path / "a")}, ["stoi"], "title")
    assert figure is not None
    legends = [*figure.legends, *(panel.get_legend() for panel in figure.axes if panel.get_legend() is not None)]
    assert {text.get_text() for legend in legends for text in legend.get_texts()} == {"begun", "a", "input"}
    empty = run(tmp_path / "empty", finished=False)
    (empty.path / "metrics.csv").unlink()
    assert curves_figure({"empty": read_run(empty.path)}, ["stoi"], "title") is None
    assert distributions_figure({"begun": begun}, ["stoi"], "title") is None


@pytest.mark.parametrize(
    ("rows", "scale"),
    [("25,-0.5\n50,-0.7\n75,-0.6\n", "linear"), ("25,0.5\n", "log"), ("25,nan\n50,0.4\n", "log")],
)
def test_the_panel_of_the_loss_is_not_empty(tmp_path: Path, rows: str, scale: str) -> None:
    begun = run(tmp_path / "begun", finished=False, valid_stoi=())
    (begun.path / "metrics.csv").write_text(f"step,loss/l1\n{rows}")
    figure = curves_figure({"begun": read_run(begun.path)}, ["stoi"], "title")
    assert figure is not None
    assert_nothing_is_covered(figure)
    loss = figure.axes[0]
    assert loss.get_yscale() == scale
    low, high = loss.get_ylim()
    seen = [line for line in loss.lines if np.nanmin(line.get_ydata()) >= low and np.nanmax(line.get_ydata()) <= high]
    assert len(seen) == 2
    assert all(line.get_marker() or np.isfinite(line.get_ydata()).sum() > 1 for line in seen)


def test_a_loss_that_was_never_finite_has_no_panel(tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", finished=False, valid_stoi=())
    (begun.path / "metrics.csv").write_text("step,loss/l1\n25,nan\n50,nan\n")
    assert curves_figure({"begun": read_run(begun.path)}, ["stoi"], "title") is None


def test_distributions_have_a_row_for_each_system_in_its_colour(sweep: list[Run]) -> None:
    runs = dict(zip(run_names(sweep), sweep, strict=True))
    figure = distributions_figure(runs, ["stoi", "lsd"], "title")
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["input", *runs]
    points = [line for line in panel.lines if line.get_marker() == "." and np.size(line.get_xdata()) == 20]
    assert [line.get_color() for line in points] == [FIXED["input"], *(colour_of(name, list(runs)) for name in runs)]
    assert figure.axes[1].get_xlabel() == "LSD ↓\nn = 20"


def luminance(colour: str) -> float:
    linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_system_keeps_its_colour_and_colours_are_visible_on_white() -> None:
    order = ["eben", "input", "seanet", "dpcrn"]
    for other in (order, order[::-1], order[:3], ["eben", "seanet"], None):
        for name in other or order:
            assert colour_of(name, other) == colour_of(name), name  # by its name, whoever else is there, in any order
    assert colour_of("target") == FIXED["target"]
    ten = [f"seed={number}" for number in range(len(PALETTE))]
    assert {colour_of(name, ten) for name in ten} == set(PALETTE)  # though two of them would like the same
    assert [colour_of(name, ten[::-1]) for name in ten] == [colour_of(name, ten) for name in ten]
    assert colour_of("eben", ["enhanced", "eben"]) != colour_of("enhanced") == colour_of("eben")
    assert len(set(PALETTE)) == len(PALETTE)
    assert len({marker_of(name) for name in FIXED}) == len(FIXED)
    for colour in (*PALETTE, *FIXED.values()):
        assert 1.05 / (luminance(colour) + 0.05) > 2.0, colour
    many = [str(number) for number in range(100)]
    assert len({(colour_of(name, many), marker_of(name, many)) for name in many}) == 100
    assert math.isclose(luminance("#FFFFFF"), 1.0)
