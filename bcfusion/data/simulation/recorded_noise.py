"""A simulated sensor with the noise of the real one: recordings without speech, added to another simulator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bcfusion.audio.level import amplitude, level
from bcfusion.contracts import Draw, Simulator
from bcfusion.data.simulation import pair, takes_a_draw, uniform
from bcfusion.data.simulation.air_noise import NOISE_FLOOR, draw_slice
from bcfusion.data.simulation.sources import find_sources, require_with
from bcfusion.files import on_disk
from bcfusion.requirements import ascending, check_rate


class RecordedNoise:
    """Adds a body sensor's own recorded noise to the output of another simulator.

    The noise is what the sensor records while its wearer is silent: breath, heartbeat, rubbing of skin and cloth,
    electronics; as in Vibravox's speechless recordings or in the pauses of a recorded corpus. ``signal = simulated +
    noise``; as the sensor's own noise it is not returned as ``noise``, which is for room noise.

    The level is absolute, as with a real sensor, and does not follow the speech: the root mean square of the slice is
    drawn in dB of full scale, so that a quiet utterance is closer to the noise than a loud one. ``level: null`` uses
    the recordings unscaled, for those that have the scale of the signals.

    Batches are not supported, since reading files is the work of the loader's processes and not of the training device.
    File, position and level are drawn from the utterance's generator. Training and evaluation never use the same noise:
    the split column of a manifest, or ``train/`` against ``valid/`` and ``test/`` in a folder, keeps them apart; of any
    other folder, training uses the first 80 % of each file and evaluation the last 20 %. In evaluation the level is the
    middle of its range.

    Args:
        simulator: makes the sensor's signal.
        noise_root: folder of recordings, searched with its sub-folders, or a manifest (``.jsonl``, ``.csv``), whose
            ``offset`` and ``duration`` are respected.
        column: of the manifest, with the paths of the recordings.
        level: in dB of full scale, drawn uniformly in training; null: as recorded.

    Raises:
        ConfigError: ``level`` is out of range.
        DataError: see :class:`~bcfusion.data.simulation.air_noise.AirNoise`.
    """

    def __init__(
        self,
        simulator: Simulator,
        noise_root: str,
        column: str = "noise",
        level: Sequence[float] | None = (-75.0, -50.0),
    ) -> None:
        rules = (
            takes_a_draw("simulator", simulator),
            [] if level is None else ascending(-120, 0, level=level),
        )
        found = require_with(self, rules, lambda: find_sources(on_disk(noise_root), column, _KEY))
        assert found is not None  # there is always something to find
        self.simulator = simulator
        self.level = None if level is None else pair(level)
        self._noises = found
        self._unreadable: set[str] = set()

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, that the simulator of the signal refuses.

        Raises:
            ConfigError: it does.
        """
        check_rate(self.simulator, sample_rate)

    def __call__(self, air: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Return the sensor's ``signal (1, T)`` float32 for clean speech ``air (1, T)``."""
        made = self.simulator(air, draw)
        return {**made, "signal": made["signal"] + self._noise(air.shape[-1], draw)}

    def _noise(self, length: int, draw: Draw) -> Tensor:
        wanted = None
        if self.level is not None:
            wanted = uniform(*self.level, draw.generator) if draw.training else sum(self.level) / 2
        noise = draw_slice(self._noises, length, draw, self._unreadable, _KEY)
        # digital silence cannot be brought to a level
        if wanted is None or (loudness := level(noise)) <= NOISE_FLOOR:
            return noise
        return noise * (amplitude(wanted) / loudness)


_KEY = "noise_root of RecordedNoise"
