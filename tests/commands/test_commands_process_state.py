"""Which process of several this one is."""

from __future__ import annotations

import pytest

from bcfusion.commands.shared.process_state import RANK_VARIABLES, is_further_process


@pytest.mark.parametrize(
    ("variables", "further"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0", "RANK": "0", "GROUP_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"LOCAL_RANK": "0", "RANK": "8", "GROUP_RANK": "1"}, True),
        ({"NODE_RANK": "1"}, True),
        ({"SLURM_PROCID": "0"}, False),
        ({"SLURM_PROCID": "3"}, True),
    ],
)
def test_the_first_process_of_all_machines_is_known(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], further: bool
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_further_process() is further
