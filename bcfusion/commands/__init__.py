"""One module per verb of the command line.

A verb's module has ``HELP``, a text with examples, and ``main(argv) -> int | None``, and imports torch and Hydra only
when it runs. It can also be run as a script, which is how Lightning starts further processes.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # of `typing`; nothing is loaded here that `bcfusion --help` does not need
if TYPE_CHECKING:
    from collections.abc import Callable

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells
TERMINATED = 143  # 128 + SIGTERM
BROKEN_PIPE = 141  # 128 + SIGPIPE


def exit_status(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a verb and return the exit status of the process.

    A user's error is printed without traceback, with status 2, and so is that of a disk that is full or read-only. Any
    other exception is a bug and is raised.
    """
    from bcfusion.errors import BcfusionError, printable
    from bcfusion.telemetry import without_telemetry

    # Before torch is loaded: threads that spin while they wait for each other make a training step up to ten times
    # slower as soon as another process, such as a metric worker, needs the same core; sleeping costs nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    without_telemetry()
    # A name that is not UTF-8 cannot be printed as it is; it ends neither a table nor a batch.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main(argv) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe is handled
        return status
    except BcfusionError as error:
        if wants_traceback():
            import traceback

            traceback.print_exc()
        else:
            print(printable(str(error), keep="\n\t"), file=sys.stderr)  # it may quote a file of a stranger
        return USER_ERROR
    except KeyboardInterrupt:
        _ends_by_signal()
        if "multiprocessing" in sys.modules:
            from bcfusion.run.processes import end_children

            end_children()
        return INTERRUPTED
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            _ends_by_signal()
        raise
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return BROKEN_PIPE
    except OSError as error:
        from bcfusion.files import of_the_disk

        if (fault := of_the_disk(error)) is None or wants_traceback():
            raise
        print(fault, file=sys.stderr)
        return USER_ERROR


def _ends_by_signal() -> None:
    """Let a further Ctrl-C, while Python ends, not print the traceback of whatever is being tidied up."""
    import atexit
    import signal
    import threading

    from bcfusion.startup import is_own_process

    if is_own_process() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:  # called by another program, which may go on
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last one that is registered acts first


def _nobody_reads() -> bool:
    """Return whether the reader of standard output has closed it, as ``| head`` does; if so, discard what is left."""
    import select

    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    closed = any(events & select.POLLERR for _, events in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


def wants_traceback() -> bool:
    """Return whether the user asks for tracebacks: ``BCFUSION_TRACEBACK=1`` or Hydra's ``HYDRA_FULL_ERROR=1``."""
    return any(os.environ.get(name) == "1" for name in ("BCFUSION_TRACEBACK", "HYDRA_FULL_ERROR"))
