"""Tab completion: what a line could become, and the functions of the three shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bcfusion.commands.completion import candidates, main
from bcfusion.commands.verbs import VERBS
from bcfusion.errors import BcfusionError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bcfusion ", sorted([*VERBS, "help"])),
        ("bcfusion tr", ["train"]),
        ("bcfusion help ch", ["check"]),
        ("bcfusion --v", ["--version"]),
        ("bcfusion nosuch x", []),
        ("bcfusion prepare libri", ["librispeech", "libritts"]),
        ("bcfusion prepare librispeech --su", ["--subsets"]),
        ("bcfusion prepare pairs --splits tr", ["train"]),
        ("bcfusion enhance RUN --dev", ["--device"]),
        ("bcfusion enhance RUN --device c", ["cpu", "cuda"]),
        ("bcfusion enhance RUN rec", []),  # the shell completes file names
        ("bcfusion init seanet_s", ["seanet_streaming"]),
        ("bcfusion compare runs --scores ", ["best", "closing"]),
        ("bcfusion train --mult", ["--multirun"]),
        ("bcfusion train losses=[l1,mr", ["losses=[l1,mr_stft"]),
        ("bcfusion evaluate --enh", ["--enhanced"]),
        ("bcfusion evaluate ru", []),
    ],
)
def test_a_word_is_completed(line: str, found: list[str]) -> None:
    assert candidates(line) == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bcfusion train experiment=seanet_s", ["experiment=seanet_streaming"]),
        ("bcfusion train experiment=seanet optimizer.l", ["optimizer.lr=", "optimizer.lr_discriminator="]),
        (
            "bcfusion train data=",
            [f"data={name}" for name in ("demo", "folder", "manifest", "mixture", "pairs", "shards")],
        ),
        ("bcfusion evaluate runs/one data=f", ["data=folder"]),
        ("bcfusion evaluate runs/one split=", ["split=test", "split=valid"]),
        ("bcfusion listen runs/one data=f", ["data=folder"]),
        ("bcfusion train seed==1 experiment=s", []),  # an unfinished line is no error
    ],
)
def test_an_override_is_completed(line: str, found: list[str]) -> None:
    assert candidates(line) == found


@pytest.mark.slow
def test_an_empty_word_after_a_run_offers_groups_and_the_settings_of_the_verb() -> None:
    assert {"data=", "metrics=", "optimizer.", "split=", "group_by="} <= set(candidates("bcfusion evaluate runs/one "))


def test_an_unknown_shell_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BcfusionError, match="bash, zsh, fish"):
        main(["install=tcsh"])


BASH = """
    eval "$(bcfusion -sc install=bash)"
    COMP_WORDBREAKS="$2" COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1)
    _bcfusion_complete
    echo "${COMPREPLY[*]}"
"""
ZSH = """
    compdef() { }; _files() { echo files }; compadd() { shift $#@-1; echo $1 }
    eval "$(bcfusion -sc install=zsh)"
    words=(bcfusion) LBUFFER="$1" _bcfusion_complete
"""
FISH = "bcfusion -sc install=fish | source; complete -C $argv[1]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "script", "arguments", "printed"),
    [
        ("bash", BASH, ["bcfusion tr", " ="], "train"),
        ("bash", BASH, ["bcfusion train experiment=seanet_s", " "], "experiment=seanet_streaming"),
        ("bash", BASH, ["bcfusion train experiment=seanet_s", " ="], "seanet_streaming"),  # = begins a new word
        ("bash", BASH, ["bcfusion enhance rec", " ="], ""),
        ("zsh", ZSH, ["bcfusion prepare librisp"], "librispeech"),
        ("zsh", ZSH, ["bcfusion enhance rec"], "files"),
        ("fish", FISH, ["bcfusion prepare librisp"], "librispeech"),
        ("fish", FISH, ["bcfusion enhance rec"], "rec.wav"),
    ],
)
def test_a_shell_completes_a_line(shell: str, script: str, arguments: list[str], printed: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "bin" / "bcfusion"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bcfusion.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "rec.wav").touch()
    environment = {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HOME": str(tmp_path),
    }
    # fish has its arguments right after the script, the others the name of the script first
    words = arguments if shell == "fish" else [shell, *arguments]
    done = subprocess.run(
        [shell, "-c", textwrap.dedent(script), *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout.strip(), done.stderr) == (printed, "")
