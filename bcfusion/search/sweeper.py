"""Makes the sweeper known to Hydra."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from hydra.core.plugins import Plugins

NAME = "hydra_plugins.bcfusion_optuna"


def register_sweeper() -> None:
    """Register the sweeper as a part of ``hydra_plugins``, the only package from which Hydra takes plugins.

    Its file is a part of bcfusion and is loaded by its path: an installation adds nothing outside bcfusion, and a
    user's own ``hydra_plugins``, in whatever form, is left alone.
    """
    if NAME not in sys.modules:
        spec = spec_from_file_location(NAME, Path(__file__).with_name("optuna_sweeper.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    Plugins.instance().register(sys.modules[NAME].BcfusionOptunaSweeper)
