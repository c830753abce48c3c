from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_hub import FakeHub, connected
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.machine import for_machine
from bcfusion.configuration.paths import conf_dir
from bcfusion.evaluation import pool
from bcfusion.run.layout import register_run_dir

# Short everything: half a second for a whole run. A picture alone takes a second: tests of samples ask for them.
SHORT = [
    "data.batch_size=2",
    "data.segment_seconds=0.128",
    "data.workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_valid_items=1",
    "trainer.samples=0",
    "trainer.log_every=1",
    "metrics=[stoi,si_sdr]",
    "selection=stoi",
    "trainer.keep_best=[stoi]",
]
# A SEANet of a few thousand parameters besides.
TINY = ["generator.channels=2", "generator.bottleneck_channels=4", *SHORT]
TINY_DISCRIMINATOR = ["discriminators.melgan_msd.channels=2", "discriminators.melgan_msd.max_channels=8"]

# Sizes of discriminators at which a step takes milliseconds
SMALL_DISCRIMINATORS = {
    "melgan_msd": {"channels": 4, "max_channels": 8},
    "hifigan_msd": {"scales": 2, "channels": [4, 4], "kernel_sizes": [5, 5], "strides": [1, 2], "groups": [1, 2]},
    "hifigan_mpd": {"periods": [2, 3], "channels": [2, 4, 4]},
    "pqmf_bands": {"min_channels": 4},
    "multi_stft": {"n_ffts": [256, 128], "hop_lengths": [64, 32], "channels": 2},
}


#: what ``called`` gives
Call = Callable[..., subprocess.CompletedProcess[str]]
#: entries of conf/generator that need a package of an extra
NEEDS = {"codec": "transformers"}


def skip_without_extra(generator: str) -> None:
    """Skip a test of an entry of conf/generator whose package is not installed."""
    if generator in NEEDS:
        pytest.importorskip(NEEDS[generator], reason=f"needs pip install 'bcfusion[{generator}]'")


# what cannot be imported without an extra
collect_ignore_glob = (
    ["serving/*"] if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "websockets")) else []
)

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# whoever starts the tests in the background may ignore these signals, and all processes of the tests would inherit that
for number in ENDING:
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "corpora" in item.keywords and not os.environ.get("BCFUSION_CORPORA"):
            item.add_marker(pytest.mark.skip(reason="BCFUSION_CORPORA names no folder of real speech"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """Fail a test that leaves handlers of signals behind, and take away those of the log that Hydra leaves.

    Tests that follow would fail in its place: signals would not end them, and messages would go to a closed file.
    """
    signals = [signal.getsignal(number) for number in ENDING]
    root = logging.getLogger()
    handlers, level = set(root.handlers), root.level
    yield
    left = [number.name for number, before in zip(ENDING, signals, strict=True) if signal.getsignal(number) != before]
    for number, before in zip(ENDING, signals, strict=True):
        signal.signal(number, before)
    for handler in set(root.handlers) - handlers:
        if "_pytest" not in type(handler).__module__:
            root.removeHandler(handler)
    root.setLevel(level)
    assert not left, f"the test left handlers behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny networks: threads cost more than they give


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real speech, for tests marked `corpora`."""
    return Path(os.environ["BCFUSION_CORPORA"])


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of synthetic speech in the folder layout: train, valid and test, two speakers each."""
    from bcfusion.data.corpora.demo import DemoCorpus

    corpus = DemoCorpus(
        cache_dir=str(tmp_path_factory.mktemp("speech")),
        speakers={"train": 2, "valid": 1, "test": 1},
        utterances_per_speaker={"train": 2, "valid": 2, "test": 1},
        seconds=(2.5, 3.0),
    )
    corpus.rows("train")
    return Path(corpus.root)


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two seconds of noise for each split."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        (folder / split).mkdir()
        soundfile.write(folder / split / "white.flac", 0.1 * rng.standard_normal(32000).clip(-5, 5), 16000)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty Hugging Face hub on this machine, which its real client speaks with; nobody is logged in."""
    pytest.importorskip("huggingface_hub")
    with connected(tmp_path / "hf_home", monkeypatch) as hub:
        yield hub


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls ``bcfusion`` in this process, in ``tmp_path``, and returns what a process of its own would have ended with.

    A process takes seconds to import torch: those of a few tests show that it does the same.
    """
    from bcfusion.cli import main

    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "BCFUSION_TRACEBACK", "LOCAL_RANK", "COMP_LINE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        try:
            status = main([*arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return call


@pytest.fixture
def scores_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings score in this process: to start another one takes longer than all the rest of a tiny run.

    Tests of a signal, of a death and of the command line keep the scoring processes, which tests/evaluation tests, too.
    """
    monkeypatch.setattr(pool, "available_workers", lambda *, with_network: 0)


@pytest.fixture
def scoring_process(scores_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings start a process that scores, as those of a user do."""
    monkeypatch.setattr(pool, "available_workers", lambda *, with_network: 1)


@pytest.fixture
def composed(scores_here: None) -> Iterator[Callable[..., DictConfig]]:
    """Composes the shipped configuration with overrides, as the command line would without a GPU."""
    register_resolvers()
    register_run_dir()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda *overrides: compose("train", for_machine(overrides, lambda _: False))
    GlobalHydra.instance().clear()


def noise_problem(cfg: DictConfig) -> list[str]:
    """Return the problem of an experiment that learns from the noise by itself, where no microphone is in noise."""
    if "deep_clustering" not in cfg.losses or "noisy" in cfg.task.sensors:
        return []
    return ["losses.deep_clustering: asks for noise, which neither the data nor Chimera provides"]


@pytest.fixture
def tiny(composed: Callable[..., DictConfig], speech: Path) -> Callable[..., DictConfig]:
    """Composes a run of half a second on the small corpus."""

    def build(*overrides: str, discriminators: bool = True) -> DictConfig:
        game = TINY_DISCRIMINATOR if discriminators else []
        return composed("experiment=seanet", "data=folder", f"data.root={speech}", *TINY, *game, *overrides)

    return build
