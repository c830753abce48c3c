"""``bcfusion check``: verify a configuration, and print what its networks cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.hydra_app import run

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

HELP = """\
usage: bcfusion check [experiment=NAME] [key=value ...] [hydra options]

Compose a configuration as `train` does, report every problem in it, and build its networks to print parameters,
multiply-accumulates per second of audio, receptive field and latency. No data is read and nothing is written.

examples:
  bcfusion check experiment=seanet
  bcfusion check experiment=seanet recipe=fusion generator.channels=16
  bcfusion check experiment=my_seanet            your own, in ./conf/experiment
  bcfusion check -m generator=seanet,seanet_streaming
"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    with TemporaryDirectory() as scratch:  # Hydra creates a directory for each job; a check leaves none
        directories = [f"hydra.run.dir='{scratch}'", f"hydra.sweep.dir='{scratch}'", "hydra.output_subdir=null"]
        run(task, [*directories, *argv], module_file=__file__, verb="check")


def task(cfg: DictConfig) -> None:
    """Verify the configuration and print the sizes and costs of its networks."""
    from bcfusion.configuration.check import verify_or_raise

    verify_or_raise(cfg)
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{cfg.task.name}, {cfg.generator._target_.rpartition('.')[2]}", show_header=False, title_justify="left"
    )
    for name, value in _facts(cfg):
        table.add_row(name, value)
    Console(highlight=False).print(table)


def _facts(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    from bcfusion.configuration.compose import build
    from bcfusion.configuration.learning import needs_discriminators
    from bcfusion.configuration.targets import locate
    from bcfusion.probe import macs_per_second, receptive_field

    generator = build(cfg.generator)
    rate = int(generator.sample_rate)
    yield "sensors", ", ".join(cfg.task.sensors)
    yield "sample rate", f"{rate} Hz"
    yield "parameters", _millions(generator)
    yield "multiply-accumulates", f"{macs_per_second(generator) / 1e9:.3f} G per second of audio"
    field = receptive_field(generator)
    yield (
        "receptive field",
        "unbounded" if field is None else f"past {_span(field[0], rate)}, future {_span(field[1], rate)}",
    )
    ahead = "the whole file" if generator.delay is None else _span(generator.delay, rate)
    yield "latency", f"{ahead}, in frames of {_span(generator.hop, rate)}"
    yield "causal", "yes" if generator.causal else "no"
    discriminators = cfg.get("discriminators") or {}
    for name, node in discriminators.items():
        yield f"discriminator {name}", f"{_millions(build(node))} parameters"
    if not discriminators:
        yield "discriminators", "none: regression"
    for name, node in (cfg.get("losses") or {}).items():
        idle = not discriminators and needs_discriminators(locate(node["_target_"]))
        yield f"loss {name}", "left out without discriminators" if idle else f"weight {node.weight:g}"
    if discriminators:
        yield "loss adversarial", f"weight {cfg.adversarial.weight:g}, from step {cfg.adversarial.start_step}"
    yield "selection", ", ".join(f"{name} (weight {criterion.weight:g})" for name, criterion in cfg.selection.items())


def _millions(module: nn.Module) -> str:
    from bcfusion.probe import count_parameters

    return f"{count_parameters(module) / 1e6:.3f} M"


def _span(samples: int, rate: int) -> str:
    return f"{samples} samples ({1000 * samples / rate:.1f} ms)"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
