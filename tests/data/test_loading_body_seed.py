from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bcfusion import audio
from bcfusion.contracts import Draw, Row, Simulator
from bcfusion.data.loading.reader import SensorReader
from bcfusion.data.loading.segments import EvalItems, TrainSegments

RATE = 8000


class Wearer:
    """Draws a constant of the body and a constant of the utterance, which identify both seeds."""

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        signal = torch.zeros_like(air)
        signal[0, 0] = torch.rand(1, generator=draw.body)
        signal[0, 1] = torch.rand(1, generator=draw.generator)
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


def test_each_unknown_speaker_is_another(tmp_path: Path) -> None:
    (a, _), (b, _) = drawn(EvalItems(rows(tmp_path, "unknown", "unknown"), reader(Wearer())), 0, 1)
    assert a != b
