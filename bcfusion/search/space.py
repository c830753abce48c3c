"""The search space in Hydra's notation: choices, ranges and intervals become Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from bcfusion.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from optuna.distributions import BaseDistribution


def read_space(
    arguments: Sequence[str], params: Mapping[str, str], config_loader: ConfigLoader | None = None
) -> tuple[dict[str, BaseDistribution], dict[str, str]]:
    """Separate the overrides of a command line into what varies and what does not.

    - ``a,b`` or ``choice(a,b)``: one of them; ``glob(sean*)``: one of the members of a group that match
    - ``range(8,33,8)``: 8, 16, 24 or 32, as numbers of which neighbours are similar
    - ``interval(0.1,1)``: any number in between; ``int(interval(1,8))``: any whole number
    - ``tag(log,interval(1e-5,1e-2))``: the same, with every decade equally likely

    Args:
        arguments: overrides as typed.
        params: ``hydra.sweeper.params``, key to value; typed overrides win over it.
        config_loader: knows the members of groups.

    Returns:
        The distributions of the keys that vary, and the other overrides, key to value.

    Raises:
        ConfigError: nothing varies, or ``selection`` does; a range or interval is empty or unbounded, or a tag is
            unknown.
    """
    parser = OverridesParser.create(config_loader)
    parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
    overrides = {override.key_or_group: override for override in parsed}  # the last of a key wins
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides.values():
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = override.get_value_element_as_str()
    if any(key.partition(".")[0] == "selection" for key in space):
        raise ConfigError(["selection: a search compares its jobs by it, so it cannot vary; run one search for each"])
    if not space:
        raise ConfigError(
            ["hparams_search: nothing varies; give a key a range, as in 'optimizer.lr=tag(log,interval(1e-4,1e-2))'"]
        )
    return space, fixed


def examples(space: Mapping[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Yield values of all keys, in as few sets as it takes to contain each choice once."""
    choices: dict[str, Sequence[Any]] = {
        key: getattr(distribution, "choices", ()) for key, distribution in space.items()
    }
    first = {key: choices[key][0] if choices[key] else space[key].low for key in space}
    yield first
    for key, values in choices.items():
        yield from ({**first, key: value} for value in values[1:])


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    try:
        if getattr(value, "tags", set()) - ({"log"} if isinstance(value, IntervalSweep) else set()):
            raise ValueError("the only known tag is the one of tag(log,interval(...))")
        if isinstance(value, IntervalSweep):
            assert value.start is not None
            assert value.end is not None
            log = "log" in value.tags
            if not (math.isfinite(value.start) and math.isfinite(value.end)):
                raise ValueError("the interval is unbounded")
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log=log)
            return FloatDistribution(float(value.start), float(value.end), log=log)
        if isinstance(value, RangeSweep) and not value.shuffle:
            numbers = [float(number) for number in value.range()]
            if not numbers:
                raise ValueError("the range is empty")
            low, high = min(numbers), max(numbers)
            if all(isinstance(bound, int) for bound in (value.start, value.stop, value.step)):
                return IntDistribution(int(low), int(high), step=abs(int(value.step)))
            return FloatDistribution(low, high, step=abs(float(value.step)))
    except ValueError as error:
        raise ConfigError([f"{override.input_line}: {error}"]) from error
    return CategoricalDistribution([str(choice) for choice in override.sweep_string_iterator()])
