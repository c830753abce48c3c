"""The engine of a stream: queues between whoever delivers sound and a thread that computes.

A sound card asks for its next samples at fixed times, in a callback that must not wait. So the callback only copies:
what was heard into one queue, what is to be played out of another. A thread of its own takes whole frames out of the
first, steps the network, and puts the result into the second. At the start the second holds a reserve of silence: as
much as the frames need to be completed, and ``buffers - 1`` frames more, so that a frame may take longer now and then.

Where the output is not ready in time, silence is played. The network is then late; as soon as that is more than a
block, as much input is given up before it is computed. So the latency returns to what it was, and a network that is too
slow for the machine gives sound with gaps instead of ever older sound.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bcfusion.inference.stepping import Frames, Stepper
from bcfusion.live.rates import StreamResampler, least_reserve
from bcfusion.live.ring import Ring
from bcfusion.live.statistics import Snapshot, Statistics
from bcfusion.live.tape import Tape

__all__ = ["Engine", "Latency"]

WARM_UP = 3  #: frames of silence before the start: the first ones take longer
_LONGEST_BLOCK = 0.5  # seconds that a sound card may deliver at once
_WAIT = 0.1  # seconds until a thread that waits looks around


@dataclass(frozen=True)
class Latency:
    """Where the time from the sensor to the ear goes, in seconds.

    Attributes:
        algorithmic: the frame that has to be complete, and the network's look-ahead.
        device: buffers of the sound card, both ways, as it states them.
        rate: resampling both ways, and frames that do not end with a block of the sound card.
        queue: the reserve in which computing has to be done, and by how much the output is late at the moment.
    """

    algorithmic: float
    device: float
    rate: float
    queue: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.algorithmic + self.device + self.rate + self.queue


class Engine:
    """Steps a network between a sound card, or whatever takes its place, and itself.

    Use it as a context manager: the computing thread runs inside of the block.

    Args:
        stepper: the network. It runs a few frames of silence first and is then reset.
        device_rate: of the sound card, in Hz; None: that of the network.
        buffers: frames that wait to be played, the one that is computed included; at least 1.
        columns: channel of the sound card, from 0, of each sensor; None: in their order.
        lossless: never give up input; whoever calls :meth:`hear` then waits for :attr:`room`.
        tape: that keeps what was heard and what was played.
        clock: seconds, from any point on.

    Attributes:
        statistics: what is measured.
        block: samples at ``device_rate`` of a frame, rounded up: what a sound card is asked to deliver at once.
        reserve: samples of silence before the first output.
        idle: whether the computing thread waits for input.
    """

    def __init__(
        self,
        stepper: Stepper,
        device_rate: int | None = None,
        buffers: int = 2,
        columns: Sequence[int] | None = None,
        *,
        lossless: bool = False,
        tape: Tape | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stepper, self.tape, self._clock = stepper, tape, clock
        self.rate = rate = stepper.sample_rate if device_rate is None else device_rate
        channels = len(stepper.sensors)
        self.columns = tuple(range(channels) if columns is None else columns)
        self.block = -(-stepper.frame * rate // stepper.sample_rate)
        self._least = least_reserve(stepper.frame, stepper.sample_rate, rate, self.block)
        self.reserve = self._least + (buffers - 1) * self.block
        self.statistics = Statistics(channels, stepper.frame / stepper.sample_rate, rate)
        most = round(_LONGEST_BLOCK * rate)
        self._heard = Ring(self.reserve + 2 * self.block + (0 if lossless else most), channels)
        self._ready = Ring(2 * self.reserve + 2 * self.block + most, 1)
        self._ready.write(np.zeros((self.reserve, 1), dtype=np.float32))
        self._lossless = lossless
        self._inward = self._outward = None
        if rate != stepper.sample_rate:
            self._inward = StreamResampler(rate, stepper.sample_rate, channels)
            self._outward = StreamResampler(stepper.sample_rate, rate, 1)
        self._pending = Ring(stepper.frame + 2 * self._heard.capacity * stepper.sample_rate // rate + rate, channels)
        self._block = np.zeros((self.block, channels), dtype=np.float32)
        self._frame = np.zeros((stepper.frame, channels), dtype=np.float32)
        # Released by the callback. A plain lock, since a callback that signals a condition could have to wait for it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._ending = self.idle = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._begun = clock()

    def __enter__(self) -> Engine:
        silence = np.zeros((len(self.stepper.sensors), self.stepper.frame), dtype=np.float32)
        for _ in range(WARM_UP):
            self.stepper.step(silence)
        self.stepper.reset()
        self._thread = threading.Thread(target=self._run, name="bcfusion stream", daemon=True)
        self._thread.start()
        self._begun = self._clock()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending = True
        self._signal()
        if self._thread is not None:
            self._thread.join()

    @property
    def room(self) -> int:
        """Samples of input that can be taken."""
        return self._heard.room

    @property
    def late(self) -> int:
        """Samples, at the rate of the sound card, by which the output is later than planned."""
        return self._heard.written - self.statistics.late_samples - self._ready.taken

    def latency(self, device: float = 0.0) -> Latency:
        """Return where the time goes; ``device`` is the share of the sound card, in seconds."""
        frame = self.stepper.frame / self.stepper.sample_rate
        return Latency(
            algorithmic=frame + self.stepper.lookahead / self.stepper.sample_rate,
            device=device,
            rate=max(0.0, self._least / self.rate - frame),
            queue=(self.reserve - self._least + max(0, self.late)) / self.rate,
        )

    def snapshot(self) -> Snapshot:
        """Return the state of the stream; see :class:`~bcfusion.live.statistics.Snapshot`."""
        return self.statistics.snapshot(self._clock() - self._begun)

    def check(self) -> None:
        """Raise the error that has ended the computing thread, if there was one; also after the ``with`` block."""
        if self._error is not None:
            raise self._error

    def exchange(self, heard: Frames, played: Frames) -> int:
        """Take what was heard and give what is to be played: :meth:`play`, then :meth:`hear`."""
        found = self.play(played)
        self.hear(heard)
        return found

    def hear(self, heard: Frames) -> None:
        """Take what was heard. It copies and never waits: a callback may call it, but one thread alone.

        Args:
            heard: ``(n, C)``, with the channels that ``columns`` names.
        """
        taken = self._heard.write(heard, self.columns)
        if taken < len(heard):
            self.statistics.full += 1
            self.statistics.full_samples += len(heard) - taken
        if self.tape is not None:
            self.tape.add_heard(heard)
        self._signal()

    def play(self, played: Frames) -> int:
        """Give what is to be played. It copies and never waits: a callback may call it, but one thread alone.

        Args:
            played: ``(m, D)``, filled: each of its channels with the output, the end with silence if it is not ready.

        Returns:
            How many samples of ``played`` are output.
        """
        count, found = len(played), self._ready.read(played)
        if found < count:
            played[found:] = 0.0
            self.statistics.underruns += 1
            self.statistics.underrun_samples += count - found
        if self.tape is not None:
            self.tape.add_played(played)
        return found

    def process(self, frame: Frames) -> Frames:
        """Step ``(S, frame)`` to ``(frame,)``, and count the time."""
        begun = self._clock()
        output = self.stepper.step(frame)
        self.statistics.add(self._clock() - begun, frame, output)
        return output

    def _signal(self) -> None:
        # whoever signals twice before the thread has looked finds the lock open, which is what is wanted
        if self._wake.locked():
            try:
                self._wake.release()
            except RuntimeError:  # the thread's own timeout came between
                return

    def _run(self) -> None:
        try:
            while not self._ending:
                self._catch_up()
                if not self._next_frame():
                    self.idle = True
                    self._wake.acquire(timeout=_WAIT)
                    self.idle = False
                    continue
                output = self.process(np.ascontiguousarray(self._frame.T))
                if not self._lossless and not np.isfinite(output).all():
                    self.statistics.resets += 1
                    self.stepper.reset()
                    output = np.zeros_like(output)
                self._emit(output[:, None])
        except BaseException as error:  # of the network; raised again where the stream is run
            self._error = error

    def _catch_up(self) -> None:
        """Give up input that has waited for too long."""
        if not self._lossless and (late := self.late) > self.block:
            skipped = self._heard.skip(late)
            if skipped:
                self.statistics.late += 1
                self.statistics.late_samples += skipped

    def _next_frame(self) -> bool:
        """Fill the frame; return False if there is not enough for it yet."""
        if self._inward is None:
            if self._heard.held < len(self._frame):
                return False
            self._heard.read(self._frame)
            return True
        while self._pending.held < len(self._frame):
            count = min(len(self._block), self._heard.held)
            if not count:
                return False
            self._heard.read(self._block[:count])
            self._pending.write(self._inward(self._block[:count]))
        self._pending.read(self._frame)
        return True

    def _emit(self, output: Frames) -> None:
        output = output if self._outward is None else self._outward(output)
        written = self._ready.write(output)
        while self._lossless and written < len(output) and not self._ending:
            time.sleep(1e-3)
            written += self._ready.write(output[written:])
