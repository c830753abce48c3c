"""The shell between a verb and Hydra: one ``hydra.main`` function, with errors in the user's terms.

All of Hydra remains: overrides, ``-m``, ``--cfg job``, ``--info``, ``--config-dir``, ``--config-name``, tab completion.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bcfusion.commands import wants_traceback
from bcfusion.commands.shared.hydra_arguments import Arguments
from bcfusion.commands.shared.process_state import (
    command_line,
    environment,
    is_further_process,
    make_cwd_importable,
    own_process_group,
    usable_start_method,
)
from bcfusion.configuration.compose import drop_unchosen, register_resolvers
from bcfusion.configuration.literal import literal_paths, literal_runtime
from bcfusion.configuration.machine import GPU, as_typed
from bcfusion.configuration.paths import conf_dir, group_members, groups, user_conf_dir
from bcfusion.errors import BcfusionError, ConfigError, first_line
from bcfusion.run.layout import RunDir, register_run_dir
from bcfusion.startup import loading

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")

HYDRA_HELP = """\
configuration:
  key.sub=value          override a value; ~key removes one; +key=value adds an argument of a class, an entry of a group
  group=member           choose a member; a list group takes several: losses=[l1,mr_stft]
  -m key=1,2,3           run once per value
  --cfg job              print the composed configuration; --info defaults prints where it comes from
  --config-dir DIR       add your own members from DIR/GROUP/NAME.yaml; the default is ./conf, if it exists.
                         They cannot replace a shipped member of the same name
  --config-name NAME     a whole configuration in the place of conf/train.yaml: --config-dir RUN --config-name config
                         takes the config.yaml of a run
  --hydra-help           Hydra's own help
  BCFUSION_TRACEBACK=1   environment variable: show where an error comes from

groups:"""


def run(
    task: Callable[[DictConfig], T], argv: list[str], *, module_file: str, verb: str, recorded: Sequence[str] = ()
) -> T | None:
    """Compose the configuration that ``argv`` asks for and call ``task`` with it.

    Args:
        task: gets the configuration, without Hydra's own part, unresolved.
        argv: arguments after the verb.
        module_file: the verb's ``__file__``. Lightning starts further processes from ``sys.argv``, so it must name a
            script that does the same.
        verb: the verb whose ``HELP`` answers ``--help``.
        recorded: those of ``argv`` that come from an earlier run. Keys that they add are accepted, whoever reads them.

    Returns:
        The result of the task (with ``-m`` of the last one that this process ran), or None if none ran, as with
        ``--help`` or ``--cfg``.

    Raises:
        ConfigError: the configuration cannot be composed, or a key is added that nobody reads; the message has the
            nearest name for a mistyped one.
        SweepFailed: jobs of a sweep failed. The others have run, and the closing table has been printed.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        print(help_text(verb))
        return None
    with loading():
        import hydra
        from hydra.core.hydra_config import HydraConfig

        from bcfusion.commands.shared.additions import refuse_unread
        from bcfusion.commands.shared.composition import compose_first_job
        from bcfusion.commands.shared.hydra_errors import explain
        from bcfusion.commands.shared.sweep import (
            SweepDirectory,
            SweepFailed,
            close_sweep,
            has_begun,
            remove_made_directories,
            sweep_directory,
        )
        from bcfusion.search.sweeper import register_sweeper

    arguments = Arguments.parse(argv, verb)
    _register_resolvers()
    register_sweeper()
    make_cwd_importable()
    extra_dirs = arguments.extra_dirs(Path.cwd())
    if not arguments.completion:
        _warn_of_shadowed_members(extra_dirs)
        refuse_unread(arguments.overrides, recorded, extra_dirs)
    job = _Job(task, module_file, verb, arguments)
    app = hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")(job.entry())
    show_traceback = wants_traceback()
    HydraConfig.instance().cfg, SweepDirectory.missing = None, ()  # of an earlier sweep of this process
    began, failed = time.time(), None
    # With HYDRA_FULL_ERROR Hydra raises errors instead of printing them and exiting.
    variables = {"HYDRA_FULL_ERROR": "1", **arguments.completion_line(verb)}
    with environment(**variables), command_line(arguments.for_hydra(module_file)), literal_paths():
        try:
            if arguments.sweeping:  # a mistake is reported before the sweep has a directory
                compose_first_job(arguments.overrides, extra_dirs)
            app()
        except Exception as error:
            if arguments.querying:
                return None  # an unfinished command line is not an error, and nothing may be printed into it
            if isinstance(error, BcfusionError) or show_traceback:
                raise
            text = explain(error, arguments.overrides, extra_dirs, verb)
            if text is not None:
                raise ConfigError(text.splitlines()) from error
            if has_begun(sweep_directory()):
                raise SweepFailed(f"the launcher of the sweep gave up: {first_line(error)}") from error
            raise
        finally:
            sweep = sweep_directory()
            if sweep is not None:  # an interrupted one shows its results so far
                failed = close_sweep(sweep, began, _keeps_files(verb))
            remove_made_directories()  # of a job that failed before it wrote anything
    if failed is not None:
        raise SweepFailed(failed)
    if job.failures:
        raise job.failures[0]
    return job.results[-1] if job.results else None


def complete(verb: str, line: str) -> None:
    """Print the overrides that the last word of a line could become, separated by spaces, as Hydra finds them.

    Args:
        verb: the verb of the line.
        line: the command line up to the cursor.
    """
    with environment(COMP_LINE=line):
        run(_never, ["-sc", "query=bash"], module_file=__file__, verb=verb)


def _never(cfg: DictConfig) -> None:
    raise AssertionError("completion runs no task")


def help_text(verb: str) -> str:
    """Return the verb's own help, how to configure it, and the members of each group."""
    own = user_conf_dir(Path.cwd())
    extra_dirs = [own] if own else []
    choices = "\n".join(f"  {group:<16}{', '.join(group_members(group, extra_dirs))}" for group in groups(extra_dirs))
    return f"{import_module(f'bcfusion.commands.{verb}').HELP.strip()}\n\n{HYDRA_HELP}\n{choices}"


def _keeps_files(verb: str) -> bool:
    """Return whether the jobs of a sweep leave files, so that what they print can refer to these."""
    return verb != "check"


class _Job(Generic[T]):
    """The function that Hydra calls for each job: it runs the task, and keeps results and failures from Hydra."""

    def __init__(self, task: Callable[[DictConfig], T], module_file: str, verb: str, arguments: Arguments) -> None:
        self.task = task
        self.module_file = module_file
        self.verb = verb
        self.arguments = arguments
        self.full_error = os.environ.get("HYDRA_FULL_ERROR")
        self.results: list[T] = []
        self.failures: list[Exception] = []

    def entry(self) -> Callable[[DictConfig], T | None]:
        """Return the function for ``hydra.main``, which names the job after the module of its function: the verb."""

        def job(cfg: DictConfig) -> T | None:
            return self(cfg)

        job.__module__ = f"bcfusion.commands.{self.verb}"
        return job

    def __call__(self, cfg: DictConfig) -> T | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import read_write

        from bcfusion.commands.shared.sweep import remove_made_directories
        from bcfusion.run import jobs
        from bcfusion.run.alive import RunIsTrained, owner

        if (whole := HydraConfig.instance().cfg) is not None:
            literal_runtime(whole)  # a launcher may have moved the job to another process
        hydra_config: Any = HydraConfig.get()
        sweeping = hydra_config.mode == RunMode.MULTIRUN
        _register_resolvers()  # a launcher may have moved the job to another process
        argv, directory = sys.argv, Path(hydra_config.runtime.output_dir)
        if sweeping:
            with read_write(hydra_config):  # Lightning gives it to further processes as their directory
                hydra_config.run.dir = str(directory)
            typed = as_typed(hydra_config.overrides.task, cfg.get("machine", GPU))
            argv = self.arguments.for_sweep_job(self.module_file, typed)
        # Further processes inherit the environment. It names the verb, which their command line lacks, and has the
        # user's own value of HYDRA_FULL_ERROR.
        inherited = {"HYDRA_FULL_ERROR": self.full_error, "BCFUSION_VERB": self.verb}
        with environment(**inherited), command_line(argv), own_process_group(), usable_start_method():
            if sweeping:
                if not is_further_process() and (process := owner(RunDir(directory))):  # nothing of it is touched
                    self.failures.append(RunIsTrained([f"{directory} is being trained by {process}: wait, or end it"]))
                    return None
                jobs.begin(directory)
                record_composition(cfg, directory)
            else:
                remove_made_directories()  # the task makes its directory when all checks have passed
            try:
                self._leave_out_unchosen(cfg, hydra_config.overrides.task)
                result = self.task(cfg)
            except RunIsTrained as error:  # by a process that was faster; the directory is another's
                self.failures.append(error)
                return None
            except Exception as error:
                if not sweeping:
                    self.failures.append(error)
                    return None
                # The sweep continues. This may be another process: the closing table reads the failure from the file.
                line = jobs.note_failure(directory, error)
                if not _keeps_files(self.verb) and isinstance(error, BcfusionError):
                    line = str(error)
                print(f"bcfusion: job {directory.name} failed: {line}", file=sys.stderr)
                return None
        if sweeping:
            jobs.note_objective(directory, result)
        self.results.append(result)
        return result

    def _leave_out_unchosen(self, cfg: DictConfig, overrides: Any) -> None:
        from omegaconf import OmegaConf

        typed: Any = OmegaConf.to_container(overrides, resolve=False)  # an interpolation means nothing here
        for path in drop_unchosen(cfg, self.arguments.extra_dirs(Path.cwd())):
            if any(override.startswith(f"{path}.") for override in typed):
                group, _, name = path.partition(".")
                print(f"bcfusion: {path} has no effect: '{name}' is not among the chosen {group}", file=sys.stderr)


def record_composition(cfg: DictConfig, directory: Path) -> None:
    """Write what Hydra composed for this job into ``directory/.hydra``."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from bcfusion.run.jobs import write_composed

    hydra_config: Any = HydraConfig.instance().cfg
    typed = OmegaConf.to_yaml(as_typed(hydra_config.hydra.overrides.task, cfg.get("machine", GPU)))
    write_composed(directory, OmegaConf.to_yaml(cfg), OmegaConf.to_yaml(hydra_config), typed)


def _register_resolvers() -> None:
    register_resolvers()
    register_run_dir()


def _warn_of_shadowed_members(extra_dirs: list[Path]) -> None:
    if is_further_process():
        return
    files = [(own, conf_dir() / own.relative_to(folder)) for folder in extra_dirs for own in folder.glob("**/*.yaml")]
    shadowed = sorted(own for own, shipped in files if shipped.exists() and shipped.read_bytes() != own.read_bytes())
    if shadowed:
        more = f" and {len(shadowed) - 1} more" if len(shadowed) > 1 else ""
        print(f"{shadowed[0]}{more}: not used, a shipped file has that name; rename it", file=sys.stderr)
