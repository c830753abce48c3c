"""Generate the table of docs/networks.md: size, cost, latency and speed of every entry of conf/generator.

python scripts/networks_table.py                   print it
python scripts/networks_table.py --write           put it into docs/networks.md
python scripts/networks_table.py eben --write      update one row

Parameters, multiply-accumulates and latency follow from the networks. The real-time factor (seconds of computation per
second of audio) is the CPU time of one thread on this machine, the median of several passes, which other programs
lengthen by what they take from the caches only: causal networks in streaming mode, in frames of the length that a
stream takes by default; the others on one file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import torch
from benchmarks.machine import processor
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from bcfusion.configuration.compose import build, register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.contracts import Generator
from bcfusion.nn.conv import remove_weight_norm
from bcfusion.nn.network import usual_frame
from bcfusion.nn.streaming import StreamingModule
from bcfusion.probe import count_parameters, macs_per_second

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
_FACTORS, _OTHERS = "Real-time factors: ", "Those of "
BEGIN, END = "<!-- networks: scripts/networks_table.py --write -->", "<!-- /networks -->"
HEADER = (
    "| `generator=` | parameters | GMAC/s | causal | latency | real-time factor |",
    "| --- | ---: | ---: | --- | ---: | ---: |",
)
FILE_SECONDS = 4.0
REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: entry of conf/generator.
        parameters: number of parameters.
        macs: multiply-accumulates per second of audio.
        causal: whether the network streams.
        latency: in samples; None if the network needs the whole file.
        sample_rate: in Hz.
        speed: seconds of computation per second of audio.
    """

    name: str
    parameters: int
    macs: float
    causal: bool
    latency: int | None
    sample_rate: int
    speed: float | None

    def markdown(self) -> str:
        """Return the row of the table."""
        seconds = None if self.latency is None else self.latency / self.sample_rate
        latency = (
            "whole file" if seconds is None else f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
        )
        speed = "" if self.speed is None else f"{self.speed:.3f}"
        size = f"{self.parameters / 1e6:.2f} M" if self.parameters else "none"
        macs = f"{self.macs / 1e9:.2f}" if self.macs >= 5e6 else "0" if not self.macs else f"{self.macs / 1e9:.4f}"
        return f"| `{self.name}` | {size} | {macs} | {'yes' if self.causal else 'no'} | {latency} | {speed} |"


def entries() -> list[str]:
    """Return the names of conf/generator."""
    return sorted(path.stem for path in (conf_dir() / "generator").glob("*.yaml"))


def network(name: str) -> nn.Module:
    """Build an entry as `bcfusion train generator=<name>` does, with the sensors of its recipe."""
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        recipe = "fusion" if f"recipe=fusion generator={name}\n" in _text(name) else "bone_to_air"
        cfg = compose("train", [f"generator={name}", f"recipe={recipe}"])
        for key in OmegaConf.missing_keys(cfg.generator):  # runs to take weights from, not needed here
            OmegaConf.update(cfg, key, None)
        torch.manual_seed(0)
        model: nn.Module = build(cfg.generator).eval()
    return model


def measure(name: str) -> Row:
    """Measure one network; the real-time factor takes seconds to minutes."""
    model = network(name)
    spec = cast("Generator", model)
    return Row(
        name,
        count_parameters(model),
        macs_per_second(model),
        spec.causal,
        spec.delay,
        spec.sample_rate,
        real_time_factor(remove_weight_norm(model)),  # as in a bundle
    )


def real_time_factor(model: nn.Module, seconds: float = FILE_SECONDS) -> float:
    """Return the median of the CPU time over some runs on one thread, after a warm-up."""
    spec = cast("Generator", model)
    chunk = usual_frame(spec)
    chunks = max(1, round(seconds * spec.sample_rate / chunk))
    signal = 0.07 * torch.randn(1, spec.in_channels, chunks * chunk)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            run_through(model, signal[..., : 10 * chunk], chunk)
            times = []
            for _ in range(REPEATS):
                start = time.process_time()
                run_through(model, signal, chunk)
                times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(before)
    return statistics.median(times) * spec.sample_rate / signal.shape[-1]


def run_through(model: nn.Module, signal: Tensor, chunk: int) -> None:
    """Stream a signal through a causal network, or pass it through any other network as a whole."""
    if not (isinstance(model, StreamingModule) and model.causal):
        model(signal)
        return
    with model.streaming(1):
        for part in signal.split(chunk, dim=-1):
            model(part)


def table(names: list[str]) -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is measured."""
    yield from HEADER
    for name in names:
        yield measure(name).markdown()


def _text(name: str) -> str:
    return (conf_dir() / "generator" / f"{name}.yaml").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=entries(), help="entries of conf/generator; default: all")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/networks.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(entries()))
    if unknown:
        parser.error(f"no generator {', '.join(unknown)}; there are {', '.join(entries())}")
    lines = []
    for line in table(arguments.names):
        print(line, flush=True)
        lines.append(line)
    note = f"\n{_FACTORS}CPU time of one thread on {processor()}, torch {torch.__version__.partition('+')[0]}."
    print(note)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(), lines, note))


def replaced(text: str, lines: list[str], note: str) -> str:
    """Return ``text`` with the rows of ``lines`` in place of the old rows of these networks; other rows stay.

    Rows that were measured otherwise than most are named below the table.
    """
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    before, after = (
        {line.split("`")[1]: line for line in part if line.startswith("| `")} for part in (old.splitlines(), lines)
    )
    rows = {**before, **after}
    names = [name for name in entries() if name in rows]
    measured = {**_measured(old, before), **dict.fromkeys(after, note.strip().removeprefix(_FACTORS))}
    most, *others = [how for how, _ in Counter(measured[name] for name in names).most_common()]
    notes = ["", _FACTORS + most]
    for how in others:
        notes.append(_OTHERS + ", ".join(f"`{name}`" for name in names if measured[name] == how) + f": {how}")
    return "\n".join([head + BEGIN, *HEADER, *(rows[name] for name in names), *notes, END]) + tail


def _measured(old: str, rows: Iterable[str]) -> dict[str, str]:
    """Return how each row of the table was measured, as its notes say."""
    found = {}
    for line in old.splitlines():
        if line.startswith(_FACTORS):
            found |= dict.fromkeys(rows, line.removeprefix(_FACTORS))
        elif line.startswith(_OTHERS):
            who, _, how = line.removeprefix(_OTHERS).partition(": ")
            found |= dict.fromkeys(who.split("`")[1::2], how)
    return found


if __name__ == "__main__":
    main()
