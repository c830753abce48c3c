"""``bcfusion check``: verify a configuration and its data, rehearse a step, and print what networks and steps cost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.shared.hydra_app import run
from bcfusion.commands.shared.whose_settings import published_settings, say_whose_settings
from bcfusion.configuration.later import later
from bcfusion.configuration.machine import settings
from bcfusion.errors import ConfigError
from bcfusion.startup import loading

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

HELP = """\
usage: bcfusion check [experiment=NAME] [key=value ...] [hydra options]

Compose a configuration as `train` does, read its corpus, train one step and validate one utterance. Every problem is
reported at once, with exit status 2. Without any, files, speakers, hours and sample rates of each split are printed,
the seconds of a step, how many steps fit into the budget, and the size, cost, receptive field and latency of the
networks. No run directory is made.

  check.step=false       check the configuration and measure the networks: no data is read, no step trained

examples:
  bcfusion check experiment=seanet
  bcfusion check experiment=seanet data=folder data.root=/data/speech
  bcfusion check experiment=seanet recipe=fusion generator.channels=16 check.step=false
  bcfusion check experiment=my_seanet            your own, in ./conf/experiment
  bcfusion check -m generator=seanet,seanet_streaming
"""

logger = logging.getLogger(__name__)

STEP = "check.step"


def main(argv: list[str]) -> None:
    """Run the verb."""
    step, argv = _with_step(argv)
    with TemporaryDirectory() as scratch:  # Hydra creates a directory for each job; a check leaves none
        directories = [f"hydra.run.dir='{scratch}'", f"hydra.sweep.dir='{scratch}'", "hydra.output_subdir=null"]
        run(lambda cfg: task(cfg, step), [*directories, *argv], module_file=__file__, verb="check")


def _with_step(argv: list[str]) -> tuple[bool, list[str]]:
    """Return the value of ``check.step``, and the other arguments: it is the verb's own, and no part of a run."""
    for argument in argv:
        key = argument.partition("=")[0]
        if key.startswith("check.") and key != STEP:
            raise ConfigError([f"{key}: there is no such key; did you mean '{STEP}'?"])
    typed = [argument for argument in argv if argument.startswith(f"{STEP}=")]
    values = {"true": True, "false": False}
    value = typed[-1].partition("=")[2].strip().lower() if typed else "true"
    if value not in values:
        raise ConfigError([f"{STEP}: must be true or false, not {value!r}"])
    return values[value], [argument for argument in argv if argument not in typed]


def task(cfg: DictConfig, step: bool = True) -> None:
    """Verify the configuration, rehearse a run of it, and print what was found.

    Args:
        cfg: the composed configuration.
        step: false verifies the configuration alone.

    Raises:
        ConfigError: with every problem.
    """
    with loading():
        from rich.console import Console
        from rich.table import Table

        from bcfusion.configuration.check import verify
        from bcfusion.run.layout import find_run

    problems = verify(cfg)
    say_whose_settings(cfg)
    if cfg.get("resume") not in (None, "auto"):
        try:
            find_run(cfg.resume)
        except ConfigError as error:
            problems += error.problems
    facts: dict[str, str] = {}
    if step:
        # Lightning lists devices and gives tips
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        with loading():
            from bcfusion.training.rehearsal import rehearse

        rehearsal = rehearse(cfg, problems)
        problems = list(dict.fromkeys([*problems, *rehearsal.problems]))
        facts = rehearsal.facts
    if problems:
        raise ConfigError(problems)
    table = Table(
        title=f"{cfg.task.name}, {cfg.generator._target_.rpartition('.')[2]}", show_header=False, title_justify="left"
    )
    for name, value in (*_machine(cfg), *facts.items(), *_facts(cfg, step)):
        table.add_row(name, value)
    Console(highlight=False).print(table)


def _machine(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield whose settings the experiment has and, if they are those of a CPU, the published ones."""
    yield "machine", f"{cfg.machine}: {settings(cfg)}"
    if published := published_settings():
        yield "published", f"{published} (machine=gpu)"


def _facts(cfg: DictConfig, rehearsed: bool) -> Iterator[tuple[str, str]]:
    with loading():
        from bcfusion.configuration.compose import build, generator_node
        from bcfusion.configuration.learning import learning_warnings, needs_discriminators
        from bcfusion.configuration.targets import locate
        from bcfusion.objectives.bridge import Bridge
        from bcfusion.probe import macs_per_second, receptive_field

    generator = build(generator_node(cfg))
    for warning in () if rehearsed else learning_warnings(cfg, generator):  # the rehearsal has said so
        logger.warning(warning)
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
    if (objective := later(cfg, "objective")) and "_target_" in objective:
        if isinstance(generator, Bridge):
            steps = f"{generator.steps} step{'' if generator.steps == 1 else 's'} of {generator.solver}"
            yield "objective", f"{type(generator.path).__name__}, predicts {generator.predict}, {steps}"
        else:  # your own
            yield "objective", type(generator).__name__
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
    for name, node in later(cfg, "critics").items():
        critic = build(node)
        size = _millions(critic.network)
        yield f"critic {name}", f"{size} parameters, learns {critic.value}, weight {critic.weight:g}"
    yield "loggers", ", ".join(cfg.get("logger") or {}) or "none"
    yield "selection", ", ".join(f"{name} (weight {criterion.weight:g})" for name, criterion in cfg.selection.items())


def _millions(module: nn.Module) -> str:
    from bcfusion.probe import count_parameters

    return f"{count_parameters(module) / 1e6:.3f} M"


def _span(samples: int, rate: int) -> str:
    return f"{samples} samples ({1000 * samples / rate:.1f} ms)"


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
