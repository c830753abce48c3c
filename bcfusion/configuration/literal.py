"""Names of folders that contain ``${``: plain text to the system, a reference to another key in a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["literal", "literal_paths", "literal_runtime"]

_REFERENCE = re.compile(r"(\\*)\$\{")


def literal(text: str) -> str:
    r"""Return the value of the configuration, or of an override, that means ``text`` itself.

    Example:
        >>> print(literal("/work/${y}/runs"))
        /work/\${y}/runs
    """
    return _REFERENCE.sub(lambda found: 2 * found[1] + r"\${", text)


def literal_runtime(config: Any) -> None:
    """Make the paths that Hydra has put into ``hydra.runtime`` literal, in place; those that are so already stay."""
    from omegaconf import read_write

    runtime: Any = config.hydra.runtime
    with read_write(runtime):
        nodes = [(runtime, name) for name in ("cwd", "output_dir")]
        nodes += [(source, "path") for source in runtime.config_sources]
        for parent, name in nodes:
            node = parent._get_node(name)
            text = None if node is None else node._value()
            if isinstance(text, str) and any(len(found[1]) % 2 == 0 for found in _REFERENCE.finditer(text)):
                parent[name] = literal(text)


@contextmanager
def literal_paths() -> Iterator[None]:
    """Let Hydra work in folders whose names contain ``${``, which it writes into its configuration as they are."""
    from hydra.core.hydra_config import HydraConfig

    # of the class: launchers send the instance, with all that is set on it, to other processes
    original = HydraConfig.set_config

    def set_config(instance: HydraConfig, cfg: DictConfig) -> None:
        literal_runtime(cfg)
        original(instance, cfg)

    HydraConfig.set_config = set_config  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        HydraConfig.set_config = original  # type: ignore[method-assign]
