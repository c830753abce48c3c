from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from omegaconf import DictConfig

from bcfusion.configuration.compose import drop_unchosen
from bcfusion.contracts import Row
from bcfusion.data.corpora.speakers import known_speakers
from bcfusion.evaluation.evaluate import evaluate
from bcfusion.run.record import Provenance
from bcfusion.training import final_evaluation
from bcfusion.training.final_evaluation import _shared_speakers
from bcfusion.training.run import train


@pytest.mark.parametrize(
    ("trained", "tested", "words"),
    [
        (["ann", "bob"], ["ann", "eve"], "; 1 of their speakers is trained on"),
        (["ann", "bob"], ["ann", "bob"], "; 2 of their speakers are trained on"),
        (["ann"], ["eve"], "; none of their speakers is trained on"),
        (["unknown"], ["unknown"], "; whether their speakers are trained on is unknown"),
        (["ann", "unknown"], ["unknown"], "; whether their speakers are trained on is unknown"),
        (["ann"], ["ann", "unknown"], "; 1 of their speakers is trained on (1 file is of unknown speakers)"),
        (None, ["ann"], ""),
    ],
)
def test_an_unknown_speaker_is_not_counted_as_shared(trained: list[str] | None, tested: list[str], words: str) -> None:
    def row(speaker: str) -> Row:
        return Row(speaker, {}, speaker, "test", 16000, 1.0)

    names = None if trained is None else known_speakers([row(speaker) for speaker in trained])
    datamodule = SimpleNamespace(train_speakers=lambda: names)
    utterances = SimpleNamespace(rows={speaker: row(speaker) for speaker in tested})
    assert _shared_speakers(datamodule, utterances) == words  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_final_scores_contain_speaker_noise_level_and_unreadable_files(
    composed: Callable[..., DictConfig],
    speech: Path,
    noise: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = shutil.copytree(speech, tmp_path / "speech")
    (sound,) = (corpus / "test").rglob("*.*")
    damaged = sound.with_name(f"damaged{sound.suffix}")
    damaged.write_bytes(sound.read_bytes()[:3000])
    settings = [setting for setting in TINY if not setting.startswith("generator.")]
    cfg = composed(
        *("recipe=fusion", "experiment=identity", "data=folder", f"data.root={corpus}", f"data.noise_root={noise}"),
        *("degradation.noisy.evaluation_snr=5", "data.max_unreadable_share=0.5", *settings),
    )
    drop_unchosen(cfg)
    result = train(cfg, tmp_path / "run", Provenance(recipe="fusion", experiment="identity"))
    with (result.run_dir / "quality" / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["id", "system", "speaker", "corpus", "snr"]
    systems = ["input (body)", "input (noisy)", "enhanced"]
    assert [(Path(row["id"]).name, row["system"]) for row in rows] == [
        (name, system) for name in (sound.stem, "damaged") for system in systems
    ]
    assert {row["speaker"] for row in rows} == {sound.parent.name}
    assert [float(row["snr"]) for row in rows[:3]] == pytest.approx([5.0] * 3, abs=0.1)
    assert {row["skipped"].rpartition(": ")[2] for row in rows[3:]} == {"unreadable file"}
    printed = capsys.readouterr().out
    assert "means over 2 files" in printed
    assert "enhanced: every metric skipped 1 of 2 (unreadable file)" in printed


@pytest.mark.slow
def test_convolutions_are_not_timed_anew_for_each_file_of_the_closing_evaluation(
    tiny: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[bool] = []

    def watched(*arguments: object, **named: object) -> object:
        timed.append(torch.backends.cudnn.benchmark)
        return evaluate(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(final_evaluation, "evaluate", watched)
    cfg = tiny("trainer.max_steps=1", "discriminators=[]", discriminators=False)
    train(cfg, tmp_path / "run", Provenance(recipe="bone_to_air", experiment="seanet"))
    assert timed == [False]
    assert torch.backends.cudnn.benchmark, "as trainer.cudnn_benchmark has it, for what comes after"
