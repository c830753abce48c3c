"""The keys that a command line adds, ``+key=value``, held against the configuration without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcfusion.commands.shared.composition import composed
from bcfusion.configuration.additions import Addition, addition_problems
from bcfusion.configuration.paths import groups
from bcfusion.errors import ConfigError


def refuse_unread(overrides: Sequence[str], recorded: Sequence[str], extra_dirs: Sequence[Path]) -> None:
    """Raise an error for added keys that nobody reads.

    Args:
        overrides: of the command line, those of an earlier run included.
        recorded: those of an earlier run, which are not judged.
        extra_dirs: folders of the user's own group members.

    Raises:
        ConfigError: with what each of these keys was meant to be.
    """
    added = [override for override in overrides if override.startswith("+") and override not in recorded]
    if not added:
        return
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides(added)
    except OverrideParseException:
        return  # reported when the configuration is composed
    members = groups(extra_dirs)
    additions: list[Addition] = []
    packages: dict[str, Addition] = {}
    for override in parsed:
        key, package = override.key_or_group, override.package
        if f"{key}.".startswith(("hydra.", "hydra/")):
            continue
        if key not in members:
            value = None if override.is_sweep_override() else override.value()
            additions.append(Addition(key, value, (override.input_line or "").partition("=")[2]))
        elif package is not None and package != "_global_":  # +logger@second=csv adds the keys of a member to `second`
            packages[str(override.input_line)] = Addition(package, {"_target_": ""}, None)
    keys = [addition.key for addition in additions]
    without = [
        override
        for override in overrides
        if override not in added and not any(_key(override).startswith((f"{key}.", f"{key}=")) for key in keys)
    ]
    choices = [o for o in added if _key(o).partition("=")[0] not in keys and o not in packages]
    base = composed([*without, *choices], extra_dirs)
    if base is not None:
        texts = [yaml.safe_dump(base, allow_unicode=True), *overrides]
        problems = addition_problems(additions, base, texts, extra_dirs)
        problems += [
            f"{typed}: nothing reads the keys of '{addition.key}'"
            for typed, addition in packages.items()
            if addition_problems([addition], base, texts, extra_dirs)
        ]
        if problems:
            raise ConfigError([line for problem in problems for line in problem.splitlines()])


def _key(override: str) -> str:
    return override.lstrip("+~")
