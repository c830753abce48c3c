from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcfusion import audio
from bcfusion.commands import exit_status
from bcfusion.commands.listen import main
from bcfusion.errors import ConfigError
from bcfusion.report.listening.candidates import find_candidates
from bcfusion.report.listening.server import page_server
from bcfusion.run.bundle import save_bundle

RATE = 16000


class Times(nn.Module):
    """The last sensor times a gain."""

    provides: tuple[str, ...] = ()

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = RATE, 1, 1, True, 0
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs[:, -1:]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> int:
    return exit_status(main, list(argv))


def content(path: str = "listen.html") -> Any:
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text.partition('id="page">')[2].partition("</script>")[0])


def names(path: str = "listen.html") -> list[str]:
    return [system["name"] for system in content(path)["systems"]]


def tone(frequency: float) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * frequency * np.arange(RATE // 4) / RATE)


def sounds(folder: str, ids: list[str], frequency: float) -> None:
    for place, item in enumerate(ids):
        for label, of in (("input", 200.0), ("enhanced", frequency), ("target", 900.0 + place)):
            audio.write(Path(folder) / "samples" / f"{place}-{item}.{label}.wav", tone(of), RATE)


def record(folder: str, experiment: str, ids: list[str], frequency: float) -> None:
    sounds(folder, ids, frequency)
    about = {"recipe": "bone_to_air", "experiment": experiment, "choices": {}, "sessions": [{"overrides": []}]}
    (Path(folder) / "run.json").write_text(json.dumps(about))


def evaluated(folder: str, **settings: Any) -> None:
    about = {"model": "runs/a", "step": 4, "split": "test", "steps": None, "overrides": [], **settings}
    (Path(folder) / "evaluation.json").write_text(json.dumps(about))


def test_the_sounds_that_runs_wrote_are_joined_by_utterance(capsys: pytest.CaptureFixture[str]) -> None:
    record("runs/a", "eben", ["u0", "u1", "only"], 300)
    record("runs/b", "seanet", ["u0", "u1"], 400)
    assert run("runs", "--title", "a < b") == 0
    assert names() == ["input", "eben", "seanet", "target"]
    assert [row["id"] for row in content()["rows"]] == ["u0", "u1"]
    assert "listen.html: 2 utterances, 0." in capsys.readouterr().out
    assert "<title>a &lt; b</title>" in Path("listen.html").read_text()


def test_a_single_evaluation_and_given_names() -> None:
    record("runs/a", "eben", ["u0"], 300)
    sounds("runs/a/evaluation/later", ["u0", "u9"], 350)
    evaluated("runs/a/evaluation/later", overrides=["trainer.samples=8", "metrics.lsd.n_fft=512"])
    whole, alone = find_candidates(["runs/a", "runs/a/evaluation/later"], None, print)
    assert [folder.name for folder in whole.samples] == ["a", "later"]
    assert [folder.name for folder in alone.samples] == ["later"]
    assert whole.name != alone.name
    assert run("runs/a", "runs/a/evaluation/later", "--names", "first, second") == 0
    assert names() == ["input", "first", "second", "target"]
    assert [row["id"] for row in content()["rows"]] == ["u0", "u9"]
    with pytest.raises(ConfigError, match="1 names for 2 runs"):
        find_candidates(["runs/a", "runs/a/evaluation/later"], ["one"], print)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 1},
        {"model": "runs/a/checkpoints/last.ckpt"},
        {"overrides": ["data.evaluation_body_gain=-10"]},
        {"split": "valid"},
        None,
    ],
    ids=["steps", "checkpoint", "level", "split", "not-recorded"],
)
def test_sounds_of_an_evaluation_with_other_settings_are_not_those_of_the_run(settings: dict[str, Any] | None) -> None:
    record("runs/a", "eben", ["u0"], 300)
    sounds("runs/a/evaluation/later", ["u1"], 350)
    if settings is not None:
        evaluated("runs/a/evaluation/later", **settings)
    [found] = find_candidates(["runs/a"], None, print)
    assert [folder.name for folder in found.samples] == ["a"]


def test_of_a_bundle_that_no_run_made_the_evaluations_like_the_newest_are_heard(capsys: Any) -> None:
    imported = {"imported": {"format": "eben"}}
    save_bundle(Path("models/a"), Times(), {"_target_": f"{__name__}.Times"}, ["body"], imported)
    for time, settings in (
        ("1", {"overrides": ["data=pairs", "data.body=/b"]}),
        ("2", {"overrides": ["data=pairs", "data.body=/other"]}),
        ("3", {"overrides": ["data.body=/b", "data=pairs", "trainer.samples=8"]}),
        ("4", {"overrides": ["data=pairs", "data.body=/b"], "step": 9}),
        ("5", {"overrides": ["data=pairs", "data.body=/b"]}),
    ):
        sounds(f"models/a/evaluation/{time}", [f"u{time}"], 350)
        evaluated(f"models/a/evaluation/{time}", **settings)
        Path(f"models/a/evaluation/{time}/scores.csv").write_text("id,system,stoi,skipped\nu,enhanced,0.5,\n")
    [found] = find_candidates(["models/a"], None, print)
    assert [folder.name for folder in found.samples] == ["5", "3", "1"]


def test_names_of_the_page_s_own_sounds_are_not_given_to_runs() -> None:
    record("runs/a", "target", ["u0"], 300)
    record("runs/b", "input", ["u0"], 300)
    assert [place.name for place in find_candidates(["runs"], None, print)] == ["target (1)", "input (2)"]
    with pytest.raises(ConfigError, match="--names: input is the name of a sound of the page itself"):
        find_candidates(["runs"], ["eben", "input"], print)


def test_nothing_to_listen_to_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run("empty", "missing") == 2
    assert capsys.readouterr().err.splitlines() == ["empty: no run in it", "missing: there is no such folder"]
    record("runs/a", "eben", ["u0"], 300)
    record("runs/b", "seanet", ["u1"], 300)
    assert run("runs") == 2
    assert "eben, seanet: no model to enhance with" in capsys.readouterr().err


def test_another_file_is_never_replaced_but_a_page_is(capsys: pytest.CaptureFixture[str]) -> None:
    record("runs/a", "eben", ["u0"], 300)
    Path("thesis.html").write_text("<html>")
    assert run("runs", "--output", "thesis.html") == 2
    assert "is not a listening page" in capsys.readouterr().err
    assert Path("thesis.html").read_text() == "<html>"
    assert run("runs", "--output", "new/page.html") == 0
    assert run("runs", "--output", "new/page.html", "--seconds", "0.1") == 0
    assert content("new/page.html")["rows"][0]["seconds"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "abc"], "argument --seconds: abc is not a number above zero"),
        (["--anchor", "3500,0"], "argument --anchor: 0 is not a number above zero"),
        (["--no-screening"], "--no-screening needs --analyse"),
    ],
)
def test_wrong_options_are_reported(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("runs", *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_both_anchors_are_on_the_page() -> None:
    record("runs/a", "eben", ["u0"], 300)
    assert run("runs", "--anchor", "3500,7000") == 0
    assert names()[-2:] == ["anchor 3500 Hz", "anchor 7000 Hz"]


def test_a_model_whose_data_are_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["experiment=seanet", "data=folder", "data.root=/nowhere", "metrics=[stoi]", "selection=stoi"]
    save_bundle(Path("double"), Times(), {"_target_": f"{__name__}.Times"}, ["body"], {"overrides": settings})
    assert run("double") == 2
    assert capsys.readouterr().err.startswith("double (double):\n  data.root: no such folder: /nowhere")


@pytest.mark.slow
def test_models_enhance_common_utterances_and_are_scored(speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["experiment=seanet", "data=folder", "data.root=/nowhere", "data.workers=0", "trainer.accelerator=cpu"]
    settings += ["metrics=[stoi,si_sdr]", "selection=stoi", "trainer.keep_best=[stoi]", "budget.minutes=1"]
    for name, gain in (("double", 2.0), ("half", -0.5)):
        config = {"_target_": f"{__name__}.Times", "gain": gain}
        save_bundle(Path(name), Times(gain), config, ["body"], {"overrides": settings})
    assert run("double", "half", f"data.root={speech}", "--utterances", "1", "--seconds", "1", "--format", "wav") == 0
    page = content()
    assert names() == ["input", "double", "half", "target"]
    (row,) = page["rows"]
    assert row["id"].startswith("test/")
    values = dict(zip(names(), (sound["values"] for sound in row["sounds"]), strict=True))
    assert [metric["text"] for metric in page["metrics"]][:1] == ["STOI"]
    assert values["input"] == pytest.approx(values["double"], abs=1e-3)  # a gain costs neither STOI nor SI-SDR
    gains = dict(zip(names(), (sound["gain_db"] for sound in row["sounds"]), strict=True))
    assert gains["input"] - gains["double"] == pytest.approx(6.02, abs=0.05)
    assert gains["half"] - gains["double"] == pytest.approx(12.04, abs=0.05)
    assert "double: 1 utterances of double" in capsys.readouterr().out


def test_ratings_are_analysed(capsys: pytest.CaptureFixture[str]) -> None:
    ratings = [
        {"mode": "ab", "utterance": f"u{place}", "trial": place, "a": "x", "b": "y", "choice": "b", "seconds": 1}
        for place in range(6)
    ]
    page = {"format": "bcfusion-ratings", "version": 1, "listener": "Ann", "session": "s", "ratings": ratings}
    Path("r.json").write_text(json.dumps(page))
    assert run("--analyse", "r.json", "--output", "r.md") == 0
    assert "| x | y | 0 : 6 | 0 | 100 % [61, 100] | 0.031 |" in capsys.readouterr().out
    assert "1 listener: Ann" in Path("r.md").read_text()
    assert run("--analyse", "r.json", "--output", "r.json") == 2  # the ratings themselves
    assert "is not Markdown" in capsys.readouterr().err
    assert json.loads(Path("r.json").read_text()) == page
    assert run("--analyse", "r.json", "--output", "r.md") == 0
    Path("bad.json").write_text("{}")
    assert run("--analyse", "bad.json") == 2
    assert "bad.json: not the ratings of a listening page" in capsys.readouterr().err


def test_a_browser_that_disconnects_is_not_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with page_server("x" * 50_000_000, 0) as server:  # more than the sockets hold
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = socket.create_connection(server.server_address[:2])
        browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
        browser.recv(100)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        browser.close()
        urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/", timeout=10).close()
        server.shutdown()
    assert capfd.readouterr().err == ""


def test_the_server_serves_only_the_page_and_only_to_this_machine() -> None:
    with page_server("<p>ä", 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read().decode() == "<p>ä"
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/listen.html", timeout=10)
        with pytest.raises(Exception, match="--port"):
            page_server("", int(port))
        server.shutdown()
