"""Measure the memory that `bcfusion enhance` takes for long files: a Markdown table of peak RSS and real-time factor.

    python scripts/memory_enhance.py throat_causal bandwidth_8k --minutes 2 10     # models by name, bundles, runs
    python scripts/memory_enhance.py throat_causal --minutes 180                   # three hours
    python scripts/memory_enhance.py --generators all --minutes 2 10            # entries of conf/generator; takes hours
    python scripts/memory_enhance.py --generators seanet bsrnn -- --batch 4        # further options of enhance

A file of noise of each length is made block by block, restored in a process of its own, and deleted. Memory is the
largest resident set of that process, as Linux counts it: the interpreter and PyTorch take some hundred megabytes of it.
tests/generators/test_generators_enhance.py shows for every network, in seconds, that neither the longest input nor the
state grows with the length of the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from bcfusion.commands.shared.arguments import positive_number
from bcfusion.configuration.paths import group_members

SENSORS = ["body"]
# What a process reports about itself: the figure that the system reports to its parent includes the parent's memory.
CHILD = """
import pathlib, re, sys
from bcfusion.cli import main
status = main(sys.argv[2:])
peak = re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
pathlib.Path(sys.argv[1]).write_text(peak[1])
sys.exit(status)
"""


@dataclass(frozen=True)
class Measured:
    """One file of one model: peak of the resident set in MB, real-time factor, how its output was put together."""

    megabytes: float
    factor: float
    joined: str


def noise_file(path: Path, seconds: float, rate: int, channels: int) -> None:
    """Write white noise 30 dB below full scale, ten seconds at a time."""
    rng = np.random.default_rng(0)
    left = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16", format="RF64") as sound:
        while left:
            block = min(left, 10 * rate)
            sound.write(0.03 * rng.standard_normal((block, channels), dtype=np.float32))
            left -= block


def untrained(name: str, folder: Path, rate: int = 16000) -> Path:
    """Save the bundle of a network as `bcfusion train generator=NAME` would start from it, and return its folder."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from bcfusion.configuration.compose import register_resolvers
    from bcfusion.configuration.paths import conf_dir
    from bcfusion.run.bundle import save_bundle

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        sizes = [f"sample_rate={rate}", f"cutoff_frequency={rate // 4}"]
        cfg = compose("train", [f"generator={name}", f"task.sensors=[{','.join(SENSORS)}]", *sizes])
    for key in OmegaConf.missing_keys(cfg.generator):  # what weights are taken from, not needed here
        OmegaConf.update(cfg.generator, key, None)
    torch.manual_seed(0)
    settings = OmegaConf.to_container(cfg.generator, resolve=True)
    assert isinstance(settings, dict)
    return save_bundle(folder / name, instantiate(cfg.generator), {str(k): v for k, v in settings.items()}, SENSORS, {})


def measure(model: str, seconds: float, options: list[str]) -> Measured:
    """Restore one file in a process of its own."""
    from bcfusion.run.bundle import bundle_of, load_generator

    bundle = bundle_of(load_generator(model))
    assert bundle is not None
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        noise_file(folder / "long.rf64", seconds, bundle.sample_rate, len(bundle.sensors))
        paths = ["--output", f"{folder / 'out'}", "--report", f"{folder / 'report.jsonl'}"]
        source, peak = f"{folder / 'long.rf64'}", folder / "peak"
        command = [sys.executable, "-c", CHILD, str(peak), "enhance", model, source, *paths, *options]
        if status := subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(f"{model}: bcfusion enhance ended with status {status}")
        row = json.loads((folder / "report.jsonl").read_text())
        assert abs(row["seconds"] - seconds) < 1
        return Measured(int(peak.read_text()) * 1.024e-3, row["real_time_factor"], row["joined"])


def table(minutes: list[float], rows: dict[str, list[Measured]]) -> str:
    """Return a Markdown table with one row per model and two columns per length."""
    lengths = " | ".join(f"{each:g} min: peak RSS, MB | real-time factor" for each in minutes)
    lines = [f"| model | joined | {lengths} |", "| --- | --- |" + " ---: | ---: |" * len(minutes)]
    for name, values in rows.items():
        cells = " | ".join(f"{value.megabytes:.0f} | {value.factor:.3f}" for value in values)
        lines.append(f"| `{name}` | {values[-1].joined} | {cells} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure and print."""
    at = argv.index("--") if "--" in argv else len(argv)
    own, options = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names, bundles, run directories")
    parser.add_argument("--generators", nargs="+", default=[], help="entries of conf/generator, or all")
    parser.add_argument("--minutes", nargs="+", type=positive_number, default=[2.0, 10.0], help="lengths of the files")
    arguments = parser.parse_args(own)
    generators = group_members("generator") if arguments.generators == ["all"] else arguments.generators
    rows: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {name: name for name in arguments.models}
        models |= {name: str(untrained(name, Path(folder))) for name in generators}
        for name, model in models.items():
            rows[name] = []
            for minutes in arguments.minutes:
                rows[name].append(measure(model, 60 * minutes, options))
                print(f"{name}, {minutes:g} min: {rows[name][-1]}", file=sys.stderr)
    print(table(arguments.minutes, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
