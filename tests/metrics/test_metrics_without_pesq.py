"""Without the package pesq, which pip compiles, all works but PESQ, and whatever needs it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bcfusion.adaptation import curve
from bcfusion.configuration.selection import selection_problems
from bcfusion.contracts import Skip
from bcfusion.doctor import libraries
from bcfusion.doctor.finding import NOTE
from bcfusion.evaluation.pool import Scorer
from bcfusion.metrics import pesq
from bcfusion.metrics.composite import Composite
from bcfusion.metrics.pesq import MISSING, Pesq
from bcfusion.metrics.stoi import Stoi

RATE = 16000
SPEECH = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * np.repeat([0.1, 0.01], RATE // 2)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_pesq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)  # an import fails, as if it were not there
    monkeypatch.setattr(pesq, "find_spec", lambda name: None)


@pytest.mark.parametrize("metric", [Pesq("wb"), Pesq("nb"), Composite()], ids=["pesq_wb", "pesq_nb", "composite"])
def test_an_utterance_is_skipped_with_the_reason(no_pesq: None, metric: Pesq | Composite) -> None:
    with pytest.raises(Skip, match=MISSING):
        metric.score(SPEECH.astype(np.float64), SPEECH.astype(np.float64), RATE)


def test_other_metrics_are_computed_beside_it(no_pesq: None) -> None:
    with Scorer({"pesq_wb": Pesq(), "stoi": Stoi()}, RATE, workers=0) as scorer:
        scorer.submit("a", {"enhanced": SPEECH}, SPEECH)
        [row] = scorer.collect().rows
    assert row.values["stoi"] == pytest.approx(1)
    assert np.isnan(row.values["pesq_wb"])
    assert MISSING in str(row.skipped)


def tree(selection: dict[str, object], keep_best: list[str]) -> dict[str, object]:
    metrics = {
        "pesq_wb": {"_target_": "bcfusion.metrics.pesq.Pesq"},
        "stoi": {"_target_": "bcfusion.metrics.stoi.Stoi"},
    }
    return {"metrics": metrics, "sample_rate": RATE, "selection": selection, "trainer": {"keep_best": keep_best}}


PESQ = {"weight": 1, "worst": 1.0, "best": 4.64}
STOI = {"weight": 1, "worst": 0.0, "best": 1.0}


def test_a_checkpoint_is_not_chosen_by_what_cannot_be_computed(no_pesq: None) -> None:
    of_selection, of_best = selection_problems(tree({"pesq_wb": PESQ, "stoi": STOI}, ["pesq_wb", "stoi"]), [], True)
    assert of_selection == (
        f"selection.pesq_wb: {MISSING}, so that pesq_wb cannot choose a checkpoint; install it (bcfusion doctor says "
        "how), or write selection=stoi trainer.keep_best=[stoi]"
    )
    assert of_best.startswith(f"trainer.keep_best: {MISSING}")
    assert selection_problems(tree({"stoi": STOI}, ["stoi"]), [], True) == []
    assert selection_problems(tree({"pesq_wb": PESQ}, []), [], False) == [], "an evaluation chooses nothing"


def test_with_the_package_nothing_is_refused() -> None:
    assert selection_problems(tree({"pesq_wb": PESQ, "stoi": STOI}, ["pesq_wb", "stoi"]), [], True) == []


@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_adaptation_is_then_judged_by_stoi(no_pesq: None, rate: int) -> None:
    assert list(curve.metrics_for(rate)) == ["stoi"]
    assert curve.selection_for(rate).score({"stoi": 0.5}) == pytest.approx(0.5)


def test_the_doctor_says_what_to_do(no_pesq: None) -> None:
    [found] = libraries.pesq()
    assert found.status == NOTE
    assert "selection=stoi trainer.keep_best=[stoi]" in found.text
    assert "gcc" in found.remedy


@pytest.mark.slow
def test_the_package_is_not_imported_before_it_is_used() -> None:
    code = (
        "import json, sys\n"
        "import bcfusion.metrics.composite, bcfusion.adaptation.adapt, bcfusion.export.verification\n"
        "print(json.dumps('pesq' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout) is False
