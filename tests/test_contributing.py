"""The examples of CONTRIBUTING.md work as described."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from bcfusion.nn.network import WaveformNetwork
from bcfusion.probe import measured_delay

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def network_class() -> Any:
    [code] = [block for block in blocks("python") if "class DilatedStack" in block]
    namespace: dict[str, Any] = {"__name__": "dilated_stack"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    return namespace["DilatedStack"]


def test_the_example_of_a_network_streams_and_declares_its_delay() -> None:
    build = network_class()
    torch.manual_seed(0)
    for causal in (True, False):
        model = build(channels=4, layers=3, causal=causal)
        assert isinstance(model, WaveformNetwork)
        assert measured_delay(model) == model.delay
    model, x = build(channels=4, in_channels=2), torch.randn(2, 2, 500)
    with torch.inference_mode(), model.streaming(2):
        chunks = torch.cat([model(part) for part in x.split(70, dim=-1)], dim=-1)
    torch.testing.assert_close(chunks, model(x), atol=1e-5, rtol=1e-5)


def test_its_yaml_names_the_arguments_of_the_class() -> None:
    [text] = [block for block in blocks("yaml") if "DilatedStack" in block]
    assert set(yaml.safe_load(text)) == {"_target_", *inspect.signature(network_class()).parameters}
