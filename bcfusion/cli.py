"""The command line: it parses the verb and imports the one module of :mod:`bcfusion.commands` that implements it.

Only the standard library is loaded here, so that ``bcfusion --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from bcfusion import __version__
from bcfusion.commands import USER_ERROR, exit_status
from bcfusion.nearest import did_you_mean

VERBS = {
    "train": "train a network and compare its output with the input",
    "evaluate": "score a trained network, or files that another program has enhanced",
    "compare": "put runs into one table: scores, settings, sizes, speeds, clear differences",
    "enhance": "restore recordings: files, folders or globs in, files out",
    "listen": "write a page to hear runs side by side and to rate them blindly; analyse the ratings",
    "prepare": "write the manifest of a corpus: its files, speakers, splits; measure it, make shards",
    "calibrate": "measure a body sensor from recorded pairs, for simulators to use",
    "inspect": "find problems in the recordings of a manifest: lag, polarity, bandwidth, levels",
    "check": "verify a configuration; print size, cost, receptive field and latency",
    "init": "copy a shipped experiment to ./conf to edit it",
}
MODULES = {"inspect": "inspect_manifest"}  # verbs with the name of a module of the standard library
HYDRA_VERBS = ("train", "evaluate", "check")  # they complete their own overrides

USAGE = f"""\
usage: bcfusion VERB [ARGUMENTS]

Train, compare, ship and stream networks that restore speech from bone-conduction sensors.

verbs:
{chr(10).join(f"  {verb:<10}{summary}" for verb, summary in VERBS.items())}

examples:
  bcfusion train experiment=seanet            # on the built-in demo corpus
  bcfusion train --help                       # every verb has its own help
  eval "$(bcfusion train -sc install=bash)"   # tab completion

options:
  -h, --help  show this text
  --version   show the version of bcfusion"""


def main(argv: list[str] | None = None) -> int:
    """Run the console script ``bcfusion`` and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    relaunched = os.environ.get("BCFUSION_VERB")
    if relaunched and "LOCAL_RANK" in os.environ and not (argv and argv[0] in VERBS):
        # Lightning starts the further processes of `python -m bcfusion` without the verb.
        argv.insert(0, relaunched)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else USER_ERROR
    if argv[0] == "--version":
        print(f"bcfusion {__version__}")
        return 0
    if argv[0] in ("-sc", "--shell-completion"):
        return _complete(argv)
    verb, *rest = argv
    if verb not in VERBS:
        print(f"bcfusion has no verb '{verb}'{did_you_mean(verb, VERBS)}\nverbs: {', '.join(VERBS)}", file=sys.stderr)
        return USER_ERROR
    return exit_status(lambda arguments: _run(verb, arguments), rest)


def _run(verb: str, argv: list[str]) -> int | None:
    if verb in HYDRA_VERBS:
        from bcfusion.commands.shared.hydra_app import assist

        if assist(verb, argv):
            return 0
    status: int | None = import_module(f"bcfusion.commands.{MODULES.get(verb, verb)}").main(argv)
    return status


def _complete(argv: list[str]) -> int:
    """Complete verbs; a verb completes its own overrides. The shell calls ``bcfusion -sc query=SHELL``."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if not any(argument.startswith("query=") for argument in argv):
        verb = HYDRA_VERBS[0]  # install and uninstall are the same for every verb
    elif len(words) < 2 or (len(words) == 2 and not line[-1].isspace()):
        begun = words[1] if len(words) == 2 else ""
        print("\n".join(verb for verb in VERBS if verb.startswith(begun)))
        return 0
    else:
        verb = words[1]
    if verb in HYDRA_VERBS:
        return exit_status(lambda arguments: _run(verb, arguments), argv)
    return 0  # without suggestions the shell completes file names


if __name__ == "__main__":
    sys.exit(main())
