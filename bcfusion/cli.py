"""The command line: it parses the verb and imports the one module of :mod:`bcfusion.commands` that implements it.

Little of the standard library is loaded here, and nothing else, so that ``bcfusion --help`` answers at once.
"""

from __future__ import annotations

import os
import sys

from bcfusion import __version__
from bcfusion.commands import USER_ERROR, exit_status
from bcfusion.commands.verbs import HABITS, HYDRA_VERBS, VERBS, module_of

USAGE = f"""\
usage: bcfusion VERB [ARGUMENTS]

Train, compare, ship and stream networks that restore speech from bone-conduction sensors.

verbs:
{chr(10).join(f"  {verb:<10}{summary}" for verb, summary in VERBS.items())}

examples:
  bcfusion train experiment=seanet            # on the built-in demo corpus
  bcfusion train --help                       # every verb has its own help
  eval "$(bcfusion -sc install=bash)"         # tab completion; in zsh install=zsh
  bcfusion -sc install=fish | source          # in fish

options:
  -h, --help  show this text
  --version   show the version of bcfusion"""
OPTIONS = ("-h", "--help", "--version", "-sc", "--shell-completion")


def main(argv: list[str] | None = None) -> int:
    """Run the console script ``bcfusion`` and return its exit status."""
    owned = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    relaunched = os.environ.get("BCFUSION_VERB")
    if relaunched and "LOCAL_RANK" in os.environ and not (argv and argv[0] in VERBS):
        # Lightning starts the further processes of `python -m bcfusion` without the verb.
        argv.insert(0, relaunched)
    if argv[:1] == ["help"]:  # as in many programs: bcfusion help train
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else USER_ERROR
    if argv[0] == "--version":
        print(f"bcfusion {__version__}")
        return 0
    for option in {"-sc", "--shell-completion"}.intersection(argv):  # bcfusion train -sc install=bash, as in Hydra
        from bcfusion.commands.completion import main as complete

        return exit_status(complete, argv[argv.index(option) + 1 :])
    verb, *rest = argv
    if verb not in VERBS:
        print(unknown_verb(verb, rest), file=sys.stderr)
        return USER_ERROR
    if owned:
        from bcfusion.startup import own_process

        own_process()
    return exit_status(lambda arguments: _run(verb, arguments), rest)


def unknown_verb(verb: str, rest: list[str]) -> str:
    """Return two lines about a word that is not a verb: the command that was meant, if that is clear, and the verbs."""
    import shlex

    from bcfusion.nearest import did_you_mean

    verbs = f"verbs: {', '.join(VERBS)}"
    if verb == "bcfusion":
        return f"bcfusion: typed twice\nwrite {shlex.join(['bcfusion', *rest])}"
    if verb.startswith("-"):
        return f"bcfusion has no option {verb}{did_you_mean(verb, OPTIONS) or '; see --help'}\n{verbs}"
    if "=" in verb:
        return f"{verb}: the verb comes first\nwrite {shlex.join(['bcfusion', 'train', verb, *rest])}"
    habit = HABITS.get(verb.lower())
    if habit is not None:
        return f"bcfusion has no verb '{verb}'; did you mean '{habit}'?\n{verbs}"
    from bcfusion.configuration.paths import group_members

    if verb in group_members("experiment"):
        words = ["bcfusion", "train", f"experiment={verb}", *rest]
        return f"bcfusion has no verb '{verb}': an experiment\nwrite {shlex.join(words)}"
    from bcfusion.run.models import named_models

    if verb in named_models():
        words = ["bcfusion", "enhance", verb, *rest]
        return f"bcfusion has no verb '{verb}': a model\nwrite {shlex.join(words)}"
    return f"bcfusion has no verb '{verb}'{did_you_mean(verb, VERBS)}\n{verbs}"


def _run(verb: str, argv: list[str]) -> int | None:
    if verb in HYDRA_VERBS and not {"-h", "--help"}.isdisjoint(argv):  # without the verb's own arguments
        from bcfusion.commands.shared.hydra_app import help_text

        print(help_text(verb))
        return 0
    from importlib import import_module

    status: int | None = import_module(module_of(verb)).main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
