"""The thin shell between a verb and Hydra: one ``hydra.main`` function, and errors in the user's terms.

All of Hydra stays: overrides, ``-m``, ``--cfg job``, ``--info``, ``--config-dir``, ``--config-name``, tab completion.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bcfusion.commands import wants_traceback
from bcfusion.commands.shared.hydra_arguments import Arguments
from bcfusion.configuration.compose import drop_unchosen, register_resolvers
from bcfusion.configuration.paths import conf_dir, group_members, groups, user_conf_dir
from bcfusion.errors import BcfusionError, ConfigError
from bcfusion.run.layout import register_resolver

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")

HYDRA_HELP = """\
configuration:
  key.sub=value          override a value; +key=value adds one, ~key removes one
  group=member           choose a member; a list group takes several: losses=[l1,mr_stft]
  -m key=1,2,3           run once for each value
  --cfg job              print the composed configuration; --info defaults prints where it comes from
  --config-dir DIR       add your own members from DIR/GROUP/NAME.yaml; without it ./conf is used where there is one.
                         They stand beside the shipped ones and cannot replace one of the same name
  --hydra-help           Hydra's own help
  BCFUSION_TRACEBACK=1   as environment variable: show where an error comes from

groups:"""

#: set by Lightning when it starts further processes; a second job of the same process must not inherit them
LAUNCH_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run(
    task: Callable[[DictConfig], T], argv: list[str], *, config_name: str = "train", module_file: str, verb: str
) -> T | None:
    """Composes the configuration that ``argv`` asks for and calls ``task`` with it.

    Args:
        task: gets the configuration, without Hydra's own part, unresolved.
        argv: arguments behind the verb.
        config_name: root of the configuration, a file of ``conf/``.
        module_file: the verb's ``__file__``. Lightning starts further processes by ``sys.argv``, so it must name a
            script that does what this one does.
        verb: whose ``HELP`` answers ``--help``.

    Returns:
        What the task returned (under ``-m`` the last one that this process ran), or None where none ran, as with
        ``--help`` or ``--cfg``.

    Raises:
        ConfigError: the configuration cannot be composed, with the nearest name where one was mistyped.
        SweepFailed: jobs of a sweep failed. The others have run, and the closing table has been printed.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        print(help_text(verb))
        return None
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from bcfusion.commands.shared.hydra_errors import explain
    from bcfusion.commands.shared.sweep import SweepFailed, close_sweep, has_begun, sweep_directory
    from bcfusion.run.jobs import first_line
    from bcfusion.search.sweeper import register_sweeper

    arguments = Arguments.parse(argv)
    register_resolvers()
    register_resolver()
    register_sweeper()
    _make_cwd_importable()
    extra = arguments.extra_dir(Path.cwd())
    if extra is not None and not arguments.completion:
        _warn_of_shadowed_members(extra)
    job = _Job(task, module_file, verb, arguments)
    app = hydra.main(config_path=str(conf_dir()), config_name=config_name, version_base="1.3")(job.entry())
    show_traceback = wants_traceback()
    HydraConfig.instance().cfg = None  # an earlier sweep of this process is none of ours
    began, failed = time.time(), None
    # With HYDRA_FULL_ERROR Hydra raises instead of printing and leaving the process.
    with _environment(HYDRA_FULL_ERROR="1", **arguments.completion_line(verb)), _argv(arguments.for_hydra(module_file)):
        try:
            app()
        except Exception as error:
            if arguments.querying:
                return None  # half a command line is no error, and the shell is in the middle of a line
            if isinstance(error, BcfusionError) or show_traceback:
                raise
            text = explain(error, arguments.overrides, [extra] if extra else [])
            if text is None and has_begun(sweep_directory()):
                raise SweepFailed(f"the launcher of the sweep gave up: {first_line(error)}") from error
            if text is None:
                raise
            raise ConfigError(text.splitlines()) from error
        finally:
            sweep = sweep_directory()
            if sweep is not None:  # interrupted ones show what they came to as well
                failed = close_sweep(sweep, began)
    if failed is not None:
        raise SweepFailed(failed)
    if job.failures:
        raise job.failures[0]
    return job.results[-1] if job.results else None


def assist(verb: str, argv: list[str]) -> bool:
    """Answers ``--help`` and the shell's completion, for which a verb's own arguments need not be there.

    Returns:
        Whether ``argv`` asked for one of them.
    """
    if {"-h", "--help", "-sc", "--shell-completion"}.isdisjoint(argv):
        return False
    run(_never, argv, module_file=__file__, verb=verb)
    return True


def _never(cfg: DictConfig) -> None:
    raise AssertionError("help and completion run no task")


def help_text(verb: str) -> str:
    """The verb's own help, how to configure it, and what there is to choose from."""
    extra = user_conf_dir(Path.cwd())
    extras = [extra] if extra else []
    choices = "\n".join(f"  {group:<16}{', '.join(group_members(group, extras))}" for group in groups(extras))
    return f"{import_module(f'bcfusion.commands.{verb}').HELP.strip()}\n\n{HYDRA_HELP}\n{choices}"


class _Job(Generic[T]):
    """What Hydra calls for each job: the task, with results and failures kept out of Hydra's hands."""

    def __init__(self, task: Callable[[DictConfig], T], module_file: str, verb: str, arguments: Arguments) -> None:
        self.task = task
        self.module_file = module_file
        self.verb = verb
        self.arguments = arguments
        self.full_error = os.environ.get("HYDRA_FULL_ERROR")
        self.results: list[T] = []
        self.failures: list[Exception] = []

    def entry(self) -> Callable[[DictConfig], T | None]:
        """The function for ``hydra.main``, which names the job after the module of its function: the verb."""

        def job(cfg: DictConfig) -> T | None:
            return self(cfg)

        job.__module__ = f"bcfusion.commands.{self.verb}"
        return job

    def __call__(self, cfg: DictConfig) -> T | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf, read_write

        from bcfusion.run import jobs

        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        register_resolvers()  # a launcher may have brought the job into another process
        register_resolver()
        argv, directory = sys.argv, Path(HydraConfig.get().runtime.output_dir)
        if sweeping:
            hydra_config: Any = HydraConfig.get()
            with read_write(hydra_config):  # from there Lightning tells further processes where they work
                hydra_config.run.dir = str(directory)
            argv = self.arguments.for_sweep_job(self.module_file, list(HydraConfig.get().overrides.task))
        # Further processes inherit the environment: the verb that their command line lacks, and the user's own wish for
        # tracebacks rather than ours.
        with (
            _environment(HYDRA_FULL_ERROR=self.full_error, BCFUSION_VERB=self.verb),
            _argv(argv),
            _process_group(),
            _start_method(),
        ):
            if sweeping:
                jobs.begin(directory)
            try:
                # as they were typed: an override may hold an interpolation, which means nothing here
                typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
                self._leave_out_unchosen(cfg, typed if isinstance(typed, list) else [])
                result = self.task(cfg)
            except Exception as error:
                if not sweeping:
                    self.failures.append(error)
                    return None
                # The sweep goes on. This may be another process: the file is what the closing table knows it by.
                line = jobs.note_failure(directory, error)
                print(f"bcfusion: job {directory.name} failed: {line}", file=sys.stderr)
                return None
        if sweeping:
            jobs.note_objective(directory, result)
        self.results.append(result)
        return result

    def _leave_out_unchosen(self, cfg: DictConfig, typed: list[Any]) -> None:
        extra = self.arguments.extra_dir(Path.cwd())
        for path in drop_unchosen(cfg, [extra] if extra else []):
            if any(override.startswith(f"{path}.") for override in typed):
                group, _, name = path.partition(".")
                print(f"bcfusion: {path} has no effect: '{name}' is not among the chosen {group}", file=sys.stderr)


@contextmanager
def _process_group() -> Iterator[None]:
    """Leaves no trace of a multi-process job, so that the next job of a sweep can start processes of its own."""
    before = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    with _environment(**before):
        try:
            yield
        finally:
            distributed = sys.modules.get("torch.distributed")
            if distributed is not None and distributed.is_available() and distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def _start_method() -> Iterator[None]:
    """Lets a job in a worker of joblib start processes: a new one does not know the way in which joblib starts them."""
    before = multiprocessing.get_start_method(allow_none=True)
    foreign = before is not None and before not in multiprocessing.get_all_start_methods()
    if not foreign:
        yield
        return
    reset: Any = None  # to the system's own; the signature allows it, the type does not
    multiprocessing.set_start_method(reset, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Environment variables set (None: removed) inside, and as they were after."""
    before = {name: os.environ.get(name) for name in values}

    def put(name: str, value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    for name, value in values.items():
        put(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            put(name, value)


@contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


def _make_cwd_importable() -> None:
    """Lets ``_target_: my_package.MyNetwork`` be found in the working directory; last, so that it shadows nothing."""
    cwd = str(Path.cwd())
    if not {cwd, ""} & set(sys.path):
        sys.path.append(cwd)


def _warn_of_shadowed_members(extra: Path) -> None:
    if "LOCAL_RANK" in os.environ:
        return
    shipped = conf_dir()
    files = sorted(file.relative_to(extra) for file in extra.glob("**/*.yaml"))
    shadowed = [
        file
        for file in files
        if (shipped / file).exists() and (shipped / file).read_bytes() != (extra / file).read_bytes()
    ]
    if shadowed:
        more = f" and {len(shadowed) - 1} more" if len(shadowed) > 1 else ""
        print(f"{extra / shadowed[0]}{more}: not used, a shipped file has that name; rename it", file=sys.stderr)
