"""Tab completion in bash, zsh and fish: verbs, options, corpora, experiments, and overrides as Hydra completes them.

``bcfusion -sc install=bash`` prints the function that the shell loads; the function calls ``bcfusion -sc query=bash``
with the line up to the cursor in ``COMP_LINE``. Where nothing is suggested the shell completes file names.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

from bcfusion.commands.verbs import HYDRA_VERBS, VERBS, module_of
from bcfusion.errors import BcfusionError

SCRIPTS = {
    "bash": """\
_bcfusion_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="$line" "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null))
    local word="${line##*[[:space:]]}"
    if [[ "$COMP_WORDBREAKS" == *=* ]]; then  # bash replaces only what follows the last = or :
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
    fi
}
complete -o nospace -o default -F _bcfusion_complete PROGRAM""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_bcfusion_complete() {
    local -a found open closed
    found=("${(@f)$(COMP_LINE="$LBUFFER" "${words[1]}" -sc query=zsh 2>/dev/null)}")
    open=(${(M)found:#*[=.,/]}) closed=(${found:#*[=.,/]})
    closed=(${closed:#})
    (( $#open + $#closed )) || { _files; return }
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
}
compdef _bcfusion_complete PROGRAM""",
    "fish": """\
function _bcfusion_complete
    set -lx COMP_LINE (commandline -cp)
    set -l words (commandline -opc)
    set -l found ($words[1] -sc query=fish 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c PROGRAM -f -a '(_bcfusion_complete)'""",
}
REMOVAL = {
    "bash": "complete -r PROGRAM; unset -f _bcfusion_complete",
    "zsh": "compdef -d PROGRAM; unfunction _bcfusion_complete",
    "fish": "complete -e -c PROGRAM; functions -e _bcfusion_complete",
}
TAKES_MODEL = (
    "adapt",
    "enhance",
    "evaluate",
    "listen",
    "models",
    "stream",
)  #: verbs whose first argument may be the name of a model
OPEN = ("=", ".", ",", "/")  #: a candidate that ends in one of these is continued


def main(argv: list[str]) -> None:
    """Print a script for the shell (``install=SHELL``, ``uninstall=SHELL``) or candidates (``query=SHELL``).

    Raises:
        BcfusionError: there is no such request or shell.
    """
    request, _, shell = next((word for word in argv if "=" in word), "").partition("=")
    if request not in ("install", "uninstall", "query") or shell not in SCRIPTS:
        raise BcfusionError(
            f"{' '.join(['-sc', *argv])}: write install=SHELL or uninstall=SHELL for {', '.join(SCRIPTS)}\n"
            'as in: eval "$(bcfusion -sc install=bash)"'
        )
    if request != "query":
        program = Path(sys.argv[0]).name
        text = (SCRIPTS if request == "install" else REMOVAL)[shell]
        print(text.replace("PROGRAM", "bcfusion" if program.endswith(".py") else program))
        return
    for candidate in candidates(os.environ.get("COMP_LINE", "")):
        print(candidate if shell != "bash" or candidate.endswith(OPEN) else f"{candidate} ")


def candidates(line: str) -> list[str]:
    """Return what the last word of a line could become.

    Args:
        line: the command line up to the cursor, the program included.
    """
    words = line.split()
    begun = words.pop() if words and not line[-1].isspace() else ""
    if not words:
        return []
    found = _after(words[1:], begun, line)
    return sorted({each for each in found if each.startswith(begun)})


def _after(words: list[str], begun: str, line: str) -> Sequence[str]:
    """Return the candidates after the words of a line, whether or not they begin as the last word does."""
    if not words or words == ["help"]:
        return [*VERBS, "help"] if not begun.startswith("-") else ["--help", "--version"]
    verb, *given = words
    if verb not in VERBS:
        return []
    if verb == "evaluate" or verb not in HYDRA_VERBS:
        parser = _parser_of(verb, given)
        before = parser._option_string_actions.get(given[-1]) if given else None
        if before is not None and before.nargs != 0:
            return [str(choice) for choice in before.choices or ()]
        options = list(parser._option_string_actions)
    else:
        options = []
    if verb in HYDRA_VERBS:
        from hydra._internal.utils import get_args_parser

        options += [name for action in get_args_parser()._actions for name in action.option_strings]
    if begun.startswith("-"):
        return [option for option in options if option.startswith("--")]
    if verb in TAKES_MODEL and "=" not in begun and (not given or verb == "listen"):
        return _models(verb, begun) if verb != "listen" or begun else []
    if begun.startswith("init_from="):
        return [f"init_from={each}" for each in _models(verb, begun.removeprefix("init_from="))]
    if verb in HYDRA_VERBS or (verb == "listen" and "=" in begun):
        return _members(begun) or _overrides(verb, begun, line)
    return _named(verb, given)


def _models(verb: str, begun: str) -> list[str]:
    """Return the models whose names begin so, and then the files too, which the shell completes by itself otherwise."""
    from bcfusion.run.models import named_models

    names = [name for name in named_models() if name.startswith(begun)]
    if not names or verb == "models":
        return names
    return [*names, *(f"{path}/" if path.is_dir() else str(path) for path in sorted(Path().glob(f"{begun}*")))]


def _parser_of(verb: str, given: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a verb with options of its own; of `prepare` that of the corpus, if one is named."""
    if verb == "evaluate":
        from bcfusion.commands.evaluate_folders import folders_parser
        from bcfusion.commands.evaluate_scores import scores_parser
        from bcfusion.commands.evaluate_sets import sets_parser

        of_evaluate = folders_parser()
        scores_parser(of_evaluate)
        sets_parser(of_evaluate)
        return of_evaluate
    module = import_module(module_of(verb))
    if verb == "prepare" and given:
        try:
            return module._parser(given[0], module._adapter(given[0]))
        except BcfusionError:  # a name that is being mistyped has no candidates
            return module._parser()
    parser: argparse.ArgumentParser = module._parser()
    return parser


def _named(verb: str, given: Sequence[str]) -> list[str]:
    """Return the names that come first after a verb: corpora (prepare), experiments (init), sources (import)."""
    if given:
        return []
    if verb == "prepare":
        from bcfusion.commands.shared.corpora import corpus_names

        return corpus_names()
    if verb == "init":
        from bcfusion.configuration.paths import group_members

        return group_members("experiment")
    if verb == "import":
        from bcfusion.importing.source import source_names

        return source_names()
    return []


def _members(begun: str) -> list[str]:
    """Return the ways to continue a list of members, as in ``losses=[l1,mr``; Hydra completes no lists."""
    from bcfusion.configuration.compose import LIST_GROUPS
    from bcfusion.configuration.paths import group_members, user_conf_dir

    match = re.fullmatch(rf"(({'|'.join(LIST_GROUPS)})=\[(?:[\w]+,)*)\w*", begun)
    own = user_conf_dir(Path.cwd())
    return [match[1] + name for name in group_members(match[2], [own] if own else [])] if match else []


def _overrides(verb: str, begun: str, line: str) -> list[str]:
    """Return Hydra's candidates, without the parts that members include, and the settings of the verb itself."""
    from bcfusion.commands.shared.hydra_app import complete
    from bcfusion.commands.shared.mistyped import OWN_KEYS

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        complete(verb if verb in HYDRA_VERBS else "train", line)
    found = [each for each in printed.getvalue().split() if not re.search(r"=_\w+$", each)]
    if begun.startswith("split="):
        return ["split=test", "split=valid"] if verb == "evaluate" else found
    return [*found, *(f"{key}=" for key in OWN_KEYS.get(verb, ()))]
