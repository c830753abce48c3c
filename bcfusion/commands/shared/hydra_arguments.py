"""The command line of a Hydra verb, taken apart, and put together for Hydra, further processes and completion."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from bcfusion.configuration.paths import user_conf_dir
from bcfusion.errors import ConfigError
from bcfusion.nearest import nearest


@dataclass(frozen=True)
class Arguments:
    """The arguments of a verb as Hydra's own parser reads them, overrides apart from options."""

    options: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dir: str | None
    completion: bool

    @classmethod
    def parse(cls, argv: list[str]) -> Arguments:
        """Reads ``argv``; overrides may stand before, between and behind options.

        Raises:
            ConfigError: an unknown option, or one whose value is missing or wrong.
        """
        from hydra._internal.utils import get_args_parser

        parser = get_args_parser()
        usage = io.StringIO()
        try:
            with redirect_stderr(usage):
                known, others = parser.parse_known_args(argv)
        except SystemExit as stop:
            if not stop.code:  # --version
                raise
            raise ConfigError([usage.getvalue().strip().splitlines()[-1].partition("error: ")[2]]) from stop
        for option in (other for other in others if other.startswith("-")):
            near = nearest(option, [name for action in parser._actions for name in action.option_strings])
            raise ConfigError(
                [f"there is no option {option}" + (f"; did you mean {near}?" if near else "; see --help")]
            )
        overrides = [*known.overrides, *others]
        options = list(argv)
        for override in overrides:
            options.reverse()  # from the back: an option's value stands before the overrides
            options.remove(override)
            options.reverse()
        return cls(tuple(options), tuple(overrides), known.config_dir, known.shell_completion)

    @property
    def querying(self) -> bool:
        """Whether the shell asks for completions."""
        return self.completion and any(override.startswith("query=") for override in self.overrides)

    def extra_dir(self, cwd: Path) -> Path | None:
        """The folder with the user's own members: ``--config-dir``, else ``./conf``."""
        return Path(self.config_dir) if self.config_dir else user_conf_dir(cwd)

    def for_hydra(self, module_file: str) -> list[str]:
        """``sys.argv`` for Hydra. The program is the verb's module, except where a shell is told what to complete."""
        return ["bcfusion" if self.completion else module_file, *self.overrides, *self.located_options()]

    def located_options(self) -> list[str]:
        """The options, with ``--config-dir ./conf`` where the user has one and names none."""
        extra = self.extra_dir(Path.cwd())
        added = ["--config-dir", str(extra)] if extra is not None and self.config_dir is None else []
        return [*self.options, *added]

    def for_sweep_job(self, module_file: str, overrides: list[str]) -> list[str]:
        """``sys.argv`` for one job of a sweep: its overrides, without the sweep."""
        options = [option for option in self.located_options() if option not in ("-m", "--multirun")]
        return [module_file, *overrides, *options]

    def completion_line(self, verb: str) -> dict[str, str]:
        """The line that the shell completes, without the verb, of which Hydra knows nothing."""
        line = os.environ.get("COMP_LINE")
        if not self.querying or line is None:
            return {}
        words = re.findall(r"\S+\s*", line)
        if len(words) > 1 and words[1].strip() == verb:
            del words[1]
        # Nor does it know of a verb's own arguments, such as the model of evaluate; the last word is still being typed.
        kept = [word for i, word in enumerate(words) if i in (0, len(words) - 1) or _is_hydras(word, words[i - 1])]
        return {"COMP_LINE": "".join(kept)}


def _is_hydras(word: str, before: str) -> bool:
    """Whether a word of the command line is an option, an option's value or an override."""
    return word[0] in "-~" or before.startswith("-") or "=" in word
