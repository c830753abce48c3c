"""Folders whose names look like references of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bcfusion.commands import train
from bcfusion.commands.shared.evaluate_output import hydra_directory
from bcfusion.commands.shared.hydra_app import run
from bcfusion.configuration.literal import literal

NAMES = ["plain", "${y}", r"a\b", r"a\${y}", "${oc.env:HOME}", "it's ${x} and $y {z}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_literal_value_means_itself(name: str) -> None:
    assert OmegaConf.create({"key": literal(name)}).key == name
    override = OverridesParser.create().parse_override(hydra_directory(Path("/runs") / name))
    assert OmegaConf.create({"key": override.value()}).key == f"/runs/{name}"


def test_a_working_directory_may_look_like_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig

    place = tmp_path / "my ${y} ${oc.env:HOME}"
    (place / "conf" / "experiment").mkdir(parents=True)
    monkeypatch.chdir(place)

    def task(cfg: object) -> list[str]:
        runtime = HydraConfig.get().runtime
        return [runtime.output_dir, runtime.cwd, *(source.path for source in runtime.config_sources)]

    output, cwd, *sources = run(task, ["hydra.run.dir=out"], module_file=train.__file__, verb="train") or []
    assert (output, cwd) == (str(place / "out"), str(place))
    assert str(place / "conf") in sources
    # the job of another process, or a second one, finds the same
    assert run(task, ["hydra.run.dir=out"], module_file=train.__file__, verb="train") == [output, cwd, *sources]
