"""The public corpora that ``bcfusion prepare`` knows by name."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

ADAPTERS = "bcfusion.data.preparation.adapters"


@cache
def corpus_names() -> list[str]:
    """Return the names of the corpora, sorted: the modules of the package of adapters that have an ``ADAPTER``."""
    package = import_module(ADAPTERS)
    return sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if hasattr(import_module(f"{ADAPTERS}.{module.name}"), "ADAPTER")
    )
