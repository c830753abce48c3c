"""Makes the sweeper known to Hydra."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from hydra.core.plugins import Plugins

NAME = "hydra_plugins.bcfusion_optuna"


def register_sweeper() -> None:
    """Registers the sweeper as if it lay in ``hydra_plugins``, the package from which alone Hydra takes plugins.

    It lies within bcfusion and is loaded by its path, so that an installation puts nothing beside bcfusion, and a
    ``hydra_plugins`` of the user's own, whatever its form, stays as it is.
    """
    if NAME not in sys.modules:
        spec = spec_from_file_location(NAME, Path(__file__).with_name("optuna_sweeper.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    Plugins.instance().register(sys.modules[NAME].BcfusionOptunaSweeper)
