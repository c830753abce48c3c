"""``bcfusion train``: from a configuration to a run directory."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bcfusion.commands import exit_status
from bcfusion.commands.hydra_app import run
from bcfusion.commands.recorded import recorded_overrides
from bcfusion.config import merge_overrides

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = """\
usage: bcfusion train [experiment=NAME] [recipe=NAME] [key=value ...] [hydra options]

Train a network, validate it by PESQ and STOI, keep the best, and close with a table, sounds and a picture.

examples:
  bcfusion train experiment=seanet                        the demo corpus, within the budget
  bcfusion train experiment=seanet budget.minutes=30      more time
  bcfusion train experiment=seanet_streaming data=folder data.root=/data/speech
  bcfusion train experiment=seanet recipe=fusion data.noise_root=/data/noise
  bcfusion train experiment=seanet discriminators=[]      regression
  bcfusion train experiment=seanet resume=auto            go on where the newest run of this kind stopped
  bcfusion train resume=runs/bone_to_air/seanet/TIME      go on with this run, with its own settings
  bcfusion train experiment=seanet init_from=RUN          start from the weights of another run
  bcfusion train -m experiment=seanet optimizer.lr=1e-4,3e-4   sweep

hydra options:
  --cfg job               print the composed configuration and stop
  -m, --multirun          sweep over comma-separated values
  --config-dir DIR        your own conf folder (./conf is found without it)
  --hydra-help, --info    more of Hydra
  -sc install=bash        tab completion: eval "$(bcfusion train -sc install=bash)"
"""


def main(argv: list[str]) -> int:
    """Runs the verb; returns the exit status."""
    begun = [time.monotonic()]  # the budget of a sweep's first job counts from here, of the others from their own start
    argv = with_recorded_overrides(argv, "resume")
    run(
        lambda cfg: task(cfg, begun.pop() if begun else time.monotonic()),
        argv,
        config_name="train",
        module_file=__file__,
        verb="train",
    )
    return 0


def with_recorded_overrides(argv: list[str], key: str) -> list[str]:
    """Where ``key=RUN`` names a run, the command line with that run's own overrides in front."""
    values = [argument.partition("=")[2].strip("'\"") for argument in argv if argument.startswith(f"{key}=")]
    if not values or values[-1] in ("auto", "null", ""):
        return argv
    return merge_overrides(recorded_overrides(values[-1]), argv)


def task(cfg: DictConfig, started: float) -> float:
    """Verifies the composed configuration and trains; returns the objective of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    from bcfusion.config_check import verify_or_raise

    verify_or_raise(cfg)
    import logging

    logging.getLogger("lightning.pytorch").setLevel(
        logging.WARNING
    )  # devices at hand, tips: bcfusion says what matters
    from bcfusion.training.callbacks.interrupt import RunInterrupted
    from bcfusion.training.record import Provenance
    from bcfusion.training.run import train

    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    run_dir = run_dir.relative_to(Path.cwd()) if run_dir.is_relative_to(Path.cwd()) else run_dir
    overrides = [override for override in hydra.overrides.task if not override.startswith("resume=")]
    provenance = Provenance(
        recipe=str(hydra.runtime.choices["recipe"]),
        experiment=hydra.runtime.choices.get("experiment"),
        overrides=overrides,
        choices={name: choice for name, choice in hydra.runtime.choices.items() if not name.startswith("hydra")},
        command=["bcfusion", "train", *overrides],
        config_dir=next((s.path for s in hydra.runtime.config_sources if s.provider == "command-line"), None),
    )
    try:
        return train(cfg, run_dir, provenance, started).objective
    except RunInterrupted as interruption:
        print(f"\nbcfusion: {interruption}. Go on with:\n  bcfusion train resume={run_dir}", file=sys.stderr)
        raise SystemExit(128 + interruption.signum) from None


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
