"""Commands as people mistype them: each gets one or two lines that say what to type, exit status 2, no traceback."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from bcfusion.cli import main
from bcfusion.commands.shared.additions import refuse_unread
from bcfusion.errors import ConfigError
from bcfusion.training.device import on_gpu

#: answered from the words alone
AT_ONCE = [
    # verbs
    ("bcfusion trian", "did you mean 'train'?"),
    ("bcfusion Train experiment=seanet", "did you mean 'train'?"),
    ("bcfusion eval RUN", "did you mean 'evaluate'?"),
    ("bcfusion test RUN", "did you mean 'evaluate'?"),
    ("bcfusion denoise RUN a.wav", "did you mean 'enhance'?"),
    ("bcfusion resume RUN", "did you mean 'train resume=RUN'?"),
    ("bcfusion live RUN", "no verb 'live'; did you mean 'stream'?"),
    ("bcfusion seanet", "write bcfusion train experiment=seanet"),
    ("bcfusion experiment=seanet seed=1", "write bcfusion train experiment=seanet seed=1"),
    ("bcfusion bcfusion train seed=1", "write bcfusion train seed=1"),
    ("bcfusion --verison", "no option --verison; did you mean '--version'?"),
    ("bcfusion help trian", "did you mean 'train'?"),
    # keys with dashes, options that do not exist
    ("bcfusion train --experiment=seanet", "keys are typed without dashes\nwrite experiment=seanet\n"),
    ("bcfusion train --experiment seanet", "write experiment=seanet\n"),
    ("bcfusion train -experiment seanet", "write experiment=seanet\n"),
    ("bcfusion train --recipe fusion", "write recipe=fusion\n"),
    ("bcfusion train --optimizer.lr=1e-3", "write optimizer.lr=1e-3\n"),
    ("bcfusion train --epochs 10", "write trainer.max_steps=10\n"),
    ("bcfusion train --mutlirun seed=1,2", "did you mean '--multirun'?"),
    ("bcfusion train --config-dirr mine", "did you mean '--config-dir'?"),
    ("bcfusion train --cfg", "argument --cfg/-c: expected one argument"),
    ("bcfusion evaluate RUN --split valid", "write split=valid\n"),
    ("bcfusion evaluate --enhanced a --refernce b", "did you mean '--reference'?"),
    # characters, spaces, brackets
    ("bcfusion train –m seed=1,2", "a dash that is not the - of the keyboard\nwrite -m\n"),
    ("bcfusion train —multirun seed=1,2", "write --multirun\n"),
    ("bcfusion train –experiment=seanet", "write experiment=seanet\n"),
    (
        "bcfusion train “experiment=seanet”",
        "quotation marks that are not those of the keyboard\nwrite experiment=seanet",
    ),
    ("bcfusion train ‘losses=[l1,mr_stft]’", "write 'losses=[l1,mr_stft]'"),
    ("bcfusion train experiment=seanet\\\u00a0", "a space that cannot be seen\nwrite experiment=seanet"),
    ("bcfusion train experiment = seanet", "no spaces around =\nwrite experiment=seanet"),
    ("bcfusion train experiment =seanet", "write experiment=seanet"),
    ("bcfusion train experiment= seanet", "write experiment=seanet"),
    ("bcfusion train experiment seanet", "write experiment=seanet"),
    (
        "bcfusion train experiment=",
        "has no value, perhaps because a variable of the shell is not set\navailable: ap_bwe",
    ),
    ("bcfusion train data=folder data.root=", "write data.root=null for none"),
    ("bcfusion train losses=[l1, mr_stft]", "the shell splits arguments at spaces\nwrite 'losses=[l1, mr_stft]'"),
    ("bcfusion train losses=[l1,mr_stft", "a bracket is not closed\nwrite 'losses=[l1,mr_stft]'"),
    ("bcfusion train losses=l1,mr_stft]", "a bracket is closed that was not opened"),
    ("bcfusion train experiment=seanet.yaml", "write experiment=seanet"),
    ("bcfusion train data=_base", "_base is a part of the members of data, not one of them\navailable: demo"),
    # verbs with options
    ("bcfusion prepare librispeach --root . --out a.jsonl", "did you mean 'librispeech'?"),
    ("bcfusion prepare librispeech --rot . --out a.jsonl", "there is no option --rot; did you mean '--root'?"),
    ("bcfusion prepare librispeech root=/data", "options are typed with dashes\nwrite --root /data"),
    ("bcfusion prepare librispeech –root /data", "write --root"),
    ("bcfusion prepare librispeech", "the following arguments are required: --root, --out"),
    ("bcfusion check check.stop=false", "check.stop: there is no such key; did you mean 'check.step'?"),
    ("bcfusion train -m resume=RUN seed=1,2", "write init_from=RUN to start from its weights"),
    ("bcfusion prepare", "the corpus comes first: bcfusion prepare CORPUS --root DIR --out FILE"),
    ("bcfusion prepare --root . librispeech", "the corpus comes first: bcfusion prepare CORPUS --root DIR --out FILE"),
    ("bcfusion enhance RUN a.wav --out x", "there is no option --out; did you mean '--output'?"),
    ("bcfusion enhance RUN a.wav -output x", "there is no option -output; did you mean '--output'?"),
    ("bcfusion enhance RUN a.wav output=x", "write --output x"),
    ("bcfusion enhance RUN a.wav --chunk 1,5", "1,5 is not a number above zero"),
    ("bcfusion enhance RUN a.wav", "no such file or folder: a.wav"),
    ("bcfusion enhance a.wav RUN", "a.wav: a sound file; the model comes first"),
    ("bcfusion listen RUN split=valid", "write --split valid"),
    ("bcfusion listen RUN --utterance 3", "did you mean '--utterances'?"),
    ("bcfusion compare RUN --sortt stoi", "did you mean '--sort'?"),
    ("bcfusion compare nosuch", "there is no such folder"),
    ("bcfusion calibrate --pair a.jsonl", "did you mean '--pairs'?"),
    (
        "bcfusion inspect .",
        "write bcfusion prepare folder --root . --out speech.jsonl, then bcfusion inspect speech.jsonl",
    ),
    ("bcfusion inspect nosuch.jsonl", "cannot read manifest"),
    ("bcfusion init senet", "did you mean 'seanet'?"),
    ("bcfusion init experiment=seanet", "write bcfusion init seanet"),
    ("bcfusion init --lst", "did you mean '--list'?"),
    ("bcfusion evaluate", "name a model first"),
    ("bcfusion evaluate RUN split=train", "split: must be valid or test, not train"),
    ("bcfusion evaluate RUN group_by=speakers", "group_by: must be one or more of speaker, corpus, snr, not speakers"),
    ("bcfusion -sc install=tcsh", "bash, zsh, fish"),
]

#: answered after Hydra has read the configuration
BY_HYDRA = [
    ("bcfusion train +lr=1e-3", "did you mean 'optimizer.lr'?\nwrite optimizer.lr=1e-3"),
    ("bcfusion evaluate RUN +lr=1e-3", "did you mean 'optimizer.lr'?\nwrite optimizer.lr=1e-3"),
    ("bcfusion train data=librispeech", "write bcfusion prepare librispeech --root DIR --out librispeech.jsonl, then"),
    ("bcfusion train help", "help: an option here\nwrite bcfusion train --help"),
    ("bcfusion check experiment=seanet,eben", "to run once per value write bcfusion check -m experiment=seanet,eben"),
    ("bcfusion check experiment={seanet,eben}", "write bcfusion check -m experiment=seanet,eben"),
    ("bcfusion train discriminators.melgan_msd.weight=0", "to leave melgan_msd out write 'discriminators=[]'"),
]
BY_HYDRA_TOO = [
    ("bcfusion train lr=1e-3", "did you mean 'optimizer.lr'?\nwrite optimizer.lr=1e-3"),
    ("bcfusion check +foo=1", "+foo: nothing reads this key"),
    ("bcfusion train -m +trainer.foo=1,2", "+trainer.foo: nothing reads this key"),
    ("bcfusion train -m optimizer.lrr=1,2", "write optimizer.lr=1,2"),
    ("bcfusion train --lr 1e-3", "write optimizer.lr=1e-3"),
    ("bcfusion train --batch-size 16", "write data.batch_size=16"),
    ("bcfusion train --foo", "there is no option --foo"),
    ("bcfusion train +debug=quick", "debug is chosen already; leave out the + to change it"),
    ("bcfusion train +logger@second=csv", "nothing reads the keys of 'second'"),
    ("bcfusion train data.root=/data", "a key of data=folder and data=shards, which is not chosen"),
    ("bcfusion train data=LibriSpeech", "librispeech is a corpus for bcfusion prepare"),
    ("bcfusion train data=.", "write data=folder data.root=. for a corpus of speech in a folder"),
    ("bcfusion train data=a.jsonl", "write data=manifest data.path=a.jsonl"),
    ("bcfusion train recipe=bone-to-air", "did you mean 'bone_to_air'?"),
    ("bcfusion train experiment=bone_to_air", "but in recipe\nwrite recipe=bone_to_air"),
    ("bcfusion train recipe=seanet", "but in experiment and generator\nwrite experiment=seanet"),
    ("bcfusion train generator=hifigan_mpd", "write 'discriminators=[hifigan_mpd]'"),
    ("bcfusion train metrics=[pesq]", "did you mean 'pesq_wb'?"),
    (
        "bcfusion train experiment=conf/experiment/seanet.yaml",
        "a path; name the member without folder and suffix\nwrite",
    ),
    ("bcfusion train losses=l1,mr_stft", "write 'losses=[l1,mr_stft]' for a list, or add -m"),
    ("bcfusion evaluate RUN metrics=stoi,lsd", "write 'metrics=[stoi,lsd]' for a list\n"),
    ("bcfusion train optimizer.lr=0,001", "write optimizer.lr=0.001 for one number"),
    ("bcfusion train optimizer.lr=1e-3,", "ends in a comma\nwrite optimizer.lr=1e-3"),
    ("bcfusion train init_from=runs/a=b", "write 'init_from=\"runs/a=b\"'"),
    ("bcfusion train generator.strides[0]=2", "write generator.strides.0=2"),
    ("bcfusion train data=folder data.root=/my folder/x", "write 'data.root=\"/my folder/x\"'"),
    ("bcfusion train data=folder data.root=~/speech", f"write data.root={Path.home()}/speech"),
    ("bcfusion train --config-name seanet", "write experiment=seanet"),
    ("bcfusion train seanet", "a member of experiment and generator\nwrite experiment=seanet"),
    ("bcfusion train senet", "did you mean experiment=seanet?"),
    ("bcfusion train resume", "a key without its value\nwrite resume=VALUE"),
    ("bcfusion train sample_rate=16,000", "write sample_rate=16000 for one number"),
    ("bcfusion train discriminators=none", "write discriminators=[] for none"),
    ("bcfusion train data=none", "there is no 'none' in data; one is needed"),
    ("bcfusion train data=null", "names no member of data; one is needed"),
    ("bcfusion check hparams_search=optuna hparams_search.trials=2", "hparams_search.trials: there is no such key"),
    ("bcfusion check resume=nosuch check.step=false", "resume: there is no nosuch"),
    ("bcfusion train trainer=gpu", "write trainer.accelerator=gpu"),
    ("bcfusion train optimizer.lr=interval(1e-4,1e-2)", "to search write bcfusion train -m hparams_search=optuna"),
    ("bcfusion train -m optimizer.lr=interval(1e-4,1e-2)", "write bcfusion train -m hparams_search=optuna ..."),
    ("bcfusion train debug", "a group; write debug=NAME\navailable: overfit, quick"),
    ("bcfusion train train experiment=seanet", "train: typed twice"),
    ("bcfusion train runs/nosuch", "a path without its key\nwrite resume=runs/nosuch to continue a run"),
    ("bcfusion train resume=nosuch", "resume: there is no nosuch"),
]


def answer(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a mistyped command prints, after making sure that it is short and that nothing has started."""
    try:
        status = main(shlex.split(line)[1:])
    except SystemExit as stop:  # argparse
        status = int(str(stop.code))
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert 1 <= len(printed.err.strip().splitlines()) <= 2, printed.err
    assert not list(Path.cwd().iterdir())
    return printed.err


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.mark.parametrize(("line", "says"), AT_ONCE)
def test_a_mistyped_command_is_answered_with_what_to_type(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in answer(line, capsys)


@pytest.mark.parametrize(
    ("line", "says"), [*BY_HYDRA, *(pytest.param(*row, marks=pytest.mark.slow) for row in BY_HYDRA_TOO)]
)
def test_a_configuration_that_cannot_be_composed_is_answered_with_what_to_type(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in answer(line, capsys)


def test_help_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    overview = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == overview
    with pytest.raises(SystemExit) as stop:
        main(["help", "compare"])
    assert stop.value.code == 0
    assert "usage: bcfusion compare" in capsys.readouterr().out


def test_what_an_earlier_run_has_added_is_not_refused_when_the_run_is_evaluated() -> None:
    recorded = ["experiment=seanet", "+lr=1e-3"]
    refuse_unread([*recorded, "seed=1"], recorded, [])
    with pytest.raises(ConfigError, match=r"did you mean 'optimizer\.lr'"):
        refuse_unread([*recorded, "+lr=2e-3"], recorded, [])


def test_a_folder_of_members_is_named_by_the_folder_around_its_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "wide.yaml").touch()
    assert main(["check", "--config-dir", "mine/experiment", "experiment=wide"]) == 2
    assert capsys.readouterr().err == ("--config-dir mine/experiment: the folder of a group; write --config-dir mine\n")
    assert main(["check", "--config-dir", "recipes/bone_to_air/conf"]) == 2
    assert "recipes are in a clone of the repository; an installed package has none" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch finds no GPU; write"):
        on_gpu("gpu")
