"""The command line of a Hydra verb: parsed, and composed again for Hydra, further processes and completion."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bcfusion.commands.shared.mistyped import refuse_mistyped
from bcfusion.configuration.machine import for_machine
from bcfusion.configuration.paths import ROOT_CONFIG, groups, user_conf_dir
from bcfusion.errors import ConfigError
from bcfusion.nearest import did_you_mean, nearest_path
from bcfusion.startup import loading

#: what conf/train.yaml says of Hydra itself, for a whole configuration in its place, such as the config.yaml of a run
_OF_WHOLE_CONFIGURATION = (
    "+hydra=default",
    "hydra/job_logging=stdout",
    'hydra.run.dir="${run_dir:${output_root},${resume},${task.name},null,${now:%Y-%m-%d_%H-%M-%S-%f}}"',
)


@dataclass(frozen=True)
class Arguments:
    """The arguments of a verb as Hydra's own parser reads them, overrides separated from options."""

    options: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dir: str | None
    completion: bool

    @classmethod
    def parse(cls, argv: list[str], verb: str) -> Arguments:
        """Parse the arguments of a verb; overrides may come before, between and after options.

        The overrides name the machine, and of each experiment the file for it.

        Raises:
            ConfigError: an option is unknown, or its value is missing or wrong; an argument cannot be meant as it is
                typed, as with dashes in front of a key; or ``machine`` does not fit.
        """
        from hydra._internal.utils import get_args_parser

        parser = get_args_parser()
        parser.allow_abbrev = False  # `--experiment` is not short for `--experimental-rerun`
        names = [name for action in parser._actions for name in action.option_strings]
        if not {"-sc", "--shell-completion"} & set(argv):
            refuse_mistyped(argv, names, verb, _own_dirs(argv))
        usage = io.StringIO()
        try:
            with redirect_stderr(usage):
                known, others = parser.parse_known_args(argv)
        except SystemExit as stop:
            if not stop.code:  # --version
                raise
            raise ConfigError([usage.getvalue().strip().splitlines()[-1].partition("error: ")[2]]) from stop
        for option in (other for other in others if other.startswith("-")):
            raise ConfigError([f"there is no option {option}{did_you_mean(option, names) or '; see --help'}"])
        if known.config_dir is not None:
            _require_config_dir(known.config_dir)
        overrides = [*known.overrides, *others]
        options = list(argv)
        for override in overrides:
            options.reverse()  # from the end: the value of an option comes before the overrides
            options.remove(override)
            options.reverse()
        if known.config_name not in (None, Path(ROOT_CONFIG).stem):
            overrides = [*_OF_WHOLE_CONFIGURATION, *overrides]
        elif not known.shell_completion and not known.hydra_help:
            overrides = for_machine(overrides, _on_gpu, _own_dirs(argv), sweeping=known.multirun)
        return cls(tuple(options), tuple(overrides), known.config_dir, known.shell_completion)

    @property
    def sweeping(self) -> bool:
        """Whether the jobs of a sweep are to be run, and nothing is shown instead."""
        shows = {"--cfg", "-c", "--info", "-i", "--hydra-help"}
        return not {"-m", "--multirun"}.isdisjoint(self.options) and shows.isdisjoint(self.options)

    @property
    def querying(self) -> bool:
        """Whether the shell asks for completions."""
        return self.completion and any(override.startswith("query=") for override in self.overrides)

    def extra_dirs(self, cwd: Path) -> list[Path]:
        """Return the folder with the user's own members, if there is one: ``--config-dir``, else ``./conf``."""
        folder = Path(self.config_dir) if self.config_dir else user_conf_dir(cwd)
        return [] if folder is None else [folder]

    def for_hydra(self, module_file: str) -> list[str]:
        """Return ``sys.argv`` for Hydra. The program is the verb's module; for completion it is the command itself."""
        return ["bcfusion" if self.completion else module_file, *self.overrides, *self._located_options()]

    def for_sweep_job(self, module_file: str, overrides: list[str]) -> list[str]:
        """Return ``sys.argv`` for one job of a sweep: its overrides, without the sweep."""
        options = [option for option in self._located_options() if option not in ("-m", "--multirun")]
        return [module_file, *overrides, *options]

    def _located_options(self) -> list[str]:
        """Return the options, with ``--config-dir ./conf`` if the user has that folder and gives no other."""
        found = [] if self.config_dir else self.extra_dirs(Path.cwd())
        return [*self.options, *(word for folder in found for word in ("--config-dir", str(folder)))]

    def completion_line(self, verb: str) -> dict[str, str]:
        """Return the environment variable with the line to complete, without the verb, which Hydra does not know."""
        line = os.environ.get("COMP_LINE")
        if not self.querying or line is None:
            return {}
        words = re.findall(r"\S+\s*", line)
        if len(words) > 1 and words[1].strip() == verb:
            del words[1]
        # Nor does Hydra know a verb's own arguments, such as the model of evaluate. The last word is still being typed.
        typing = len(words) - 1 if words and not words[-1][-1].isspace() else 0
        kept = [word for i, word in enumerate(words) if i in (0, typing) or _is_hydras(word, words[i - 1])]
        return {"COMP_LINE": "".join(kept)}


def _is_hydras(word: str, before: str) -> bool:
    """Return whether a word of the command line is an option, an option's value or an override."""
    return word[0] in "-~" or before.startswith("-") or "=" in word


def _require_config_dir(given: str) -> None:
    """Raise an error if ``--config-dir`` names no folder, or that of a group in the place of the one around it."""
    folder = Path(given)
    if not folder.is_dir():
        clone = "\nrecipes are in a clone of the repository; an installed package has none"
        hint = clone if folder.parts[:1] == ("recipes",) else nearest_path(folder)
        raise ConfigError(f"--config-dir {given}: not found{hint}".splitlines())
    if folder.name in groups() and any(folder.glob("*.yaml")):
        around = folder.absolute().parent if folder.parent == Path() and given == "." else folder.parent
        raise ConfigError([f"--config-dir {given}: the folder of a group; write --config-dir {around}"])


def _on_gpu(accelerator: str) -> bool:
    """Return whether a run uses a GPU; one that asks for a GPU that is not there is refused later."""
    with loading():
        from bcfusion.training import device

    return accelerator == "gpu" or device.on_gpu(accelerator)


def _own_dirs(argv: list[str]) -> list[Path]:
    """Return the folder of the user's own members; of a command line that is not parsed yet, as far as it is clear."""
    given = [Path(word) for option, word in pairwise(argv) if option in ("-cd", "--config-dir")]
    given += [Path(word.partition("=")[2]) for word in argv if word.startswith("--config-dir=")]
    own = user_conf_dir(Path.cwd())
    return [folder for folder in given if folder.is_dir()] or ([own] if own else [])
