"""A simulated sensor with the noise of the real one: recordings in which nobody speaks, added to another simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bcfusion.audio.level import amplitude, level
from bcfusion.contracts import Simulator
from bcfusion.data.simulation import checked_range, models_body, simulate, uniform
from bcfusion.data.simulation.air_noise import NOISE_FLOOR, draw_slice
from bcfusion.data.simulation.sources import find_sources


class RecordedNoise:
    """Adds a body sensor's own recorded noise to what another simulator makes of clean speech.

    Breath, heartbeat, rubbing of skin and cloth, electronics: what the sensor records while its wearer is silent, as
    in Vibravox's speechless recordings or in the pauses of a recorded corpus. ``signal = simulated + noise``; being
    the sensor's own, the noise is not reported as ``noise``, which is the room's.

    The level is absolute, as a sensor's is, and does not follow the speech: the root mean square of the slice is
    drawn in dB of full scale, so that a quiet utterance is nearer to the noise than a loud one. ``level: null`` takes
    the recordings as they are, for those whose scale is that of the signals.

    It takes no batches: reading files is the work of the loader's processes, not of the training device. File, place
    and level are drawn from the utterance's generator. Training and evaluation never hear the same noise:
    the split column of a manifest, or ``train/`` against ``valid/`` and ``test/`` in a folder, keeps them apart; of
    any other folder, training hears the first 80 % of each file and evaluation the last 20 %. In evaluation the level
    is the middle of its range.

    Args:
        simulator: makes the sensor's signal.
        noise_root: folder of recordings, searched with its sub-folders, or a manifest (``.jsonl``, ``.csv``), of which
            ``offset`` and ``duration`` are heeded.
        column: of the manifest, that names the recordings.
        level: in dB of full scale, drawn uniformly in training; null: as recorded.

    Raises:
        ConfigError: ``level`` is out of range.
        DataError: as :class:`~bcfusion.data.simulation.air_noise.AirNoise`.
    """

    def __init__(
        self,
        simulator: Simulator,
        noise_root: str,
        column: str = "noise",
        level: Sequence[float] | None = (-75.0, -50.0),
    ) -> None:
        self.simulator = simulator
        self.models_body = models_body(simulator)
        self.level = None if level is None else checked_range("RecordedNoise", "level", level, -120.0, 0.0)
        self._noises = find_sources(Path(noise_root).expanduser(), column, _KEY)
        self._unreadable: set[str] = set()

    def __call__(
        self,
        air: Tensor,
        sample_rate: int,
        generator: torch.Generator,
        training: bool,
        *,
        body: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The sensor's signal ``(1, T)`` float32 for clean speech ``air (1, T)``, under the key ``signal``."""
        made = simulate(self.simulator, air, sample_rate, generator, training, body)
        noise = self._noise(air.shape[-1], sample_rate, generator, training)
        return {**made, "signal": made["signal"] + noise}

    def _noise(self, length: int, sample_rate: int, generator: torch.Generator, training: bool) -> Tensor:
        wanted = None
        if self.level is not None:
            wanted = uniform(*self.level, generator) if training else sum(self.level) / 2
        noise = draw_slice(self._noises, length, sample_rate, generator, training, self._unreadable, _KEY)
        # digital silence cannot be brought to a level
        if wanted is None or (loudness := level(noise)) <= NOISE_FLOOR:
            return noise
        return noise * (amplitude(wanted) / loudness)


_KEY = "noise_root of RecordedNoise"
