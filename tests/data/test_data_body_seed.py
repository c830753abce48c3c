from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Row, Simulator
from bcfusion.data.loading.segments import EvalItems, SensorReader, TrainSegments

RATE = 8000


class Wearer:
    """Draws a constant of the body and a constant of the utterance: channel-free labels of both seeds."""

    def __init__(self, models_body: bool = True) -> None:
        self.models_body = models_body

    def __call__(
        self,
        air: Tensor,
        sample_rate: int,
        generator: torch.Generator,
        training: bool,
        *,
        body: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        signal = torch.zeros_like(air)
        signal[0, 0] = torch.rand(1, generator=body or generator)
        signal[0, 1] = torch.rand(1, generator=generator)
        return {"signal": signal}


def rows(path: Path, *speakers: str) -> list[Row]:
    made = []
    for number, speaker in enumerate(speakers):
        file = path / f"{number}.wav"
        audio.write(file, np.zeros(RATE, dtype=np.float32), RATE)
        made.append(Row(f"{number}", {"air": str(file)}, speaker, "train", RATE, 1.0))
    return made


def reader(simulator: Simulator, sensor: str = "body") -> SensorReader:
    return SensorReader([sensor], {sensor: simulator}, RATE)


def drawn(data: TrainSegments | EvalItems, *keys: object) -> list[tuple[float, float]]:
    labels = [data[key]["inputs"][0, :2].tolist() for key in keys]  # type: ignore[index]
    return [(first, second) for first, second in labels]


def test_all_utterances_of_a_speaker_share_a_body_and_nothing_else(tmp_path: Path) -> None:
    corpus = rows(tmp_path, "ann", "ann", "bob")
    data = TrainSegments(corpus, reader(Wearer()), 1.0, seed=3)
    (a, u), (b, v), (c, w), (d, x) = drawn(data, (0, 0), (0, 1), (0, 2), (5, 0))
    assert a == b == d != c
    assert len({u, v, w, x}) == 4
    again = TrainSegments(corpus, reader(Wearer()), 1.0, seed=4)
    assert drawn(again, (0, 0))[0][0] != a  # another run, another body
    assert drawn(TrainSegments(corpus, reader(Wearer(), "throat"), 1.0, seed=3), (0, 0))[0][0] != a


def test_in_evaluation_a_speaker_has_one_body_in_every_run(tmp_path: Path) -> None:
    (a, u), (b, v), (c, _) = drawn(EvalItems(rows(tmp_path, "ann", "ann", "bob"), reader(Wearer())), 0, 1, 2)
    assert a == b != c
    assert u != v
    (alone, _), *_ = drawn(EvalItems(rows(tmp_path, "bob"), reader(Wearer())), 0)
    assert alone == c


def test_unknown_speakers_are_each_another(tmp_path: Path) -> None:
    (a, _), (b, _) = drawn(EvalItems(rows(tmp_path, "unknown", "unknown"), reader(Wearer())), 0, 1)
    assert a != b


def test_a_simulator_that_says_no_or_does_not_know_of_bodies_is_called_as_before(tmp_path: Path) -> None:
    def plain(air: Tensor, sample_rate: int, generator: torch.Generator, training: bool) -> dict[str, Tensor]:
        return Wearer()(air, sample_rate, generator, training)

    corpus = rows(tmp_path, "ann", "ann")
    for simulator in (Wearer(models_body=False), plain):
        (a, _), (b, _) = drawn(EvalItems(corpus, reader(simulator)), 0, 1)
        assert a != b
