"""Live streams: a frame in a message of a WebSocket, through a network, and a frame back for each.

The event loop only moves messages. Frames are computed in a pool of threads, those of a stream one after the other and
never two at once, so that a network that is slow, or a client that does not read, holds nobody else. What a client has
sent and not been answered is bounded: beyond it, the server does not read from the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from bcfusion.inference.stepping import Frames, Stepper
from bcfusion.serving.guard import abort
from bcfusion.serving.limits import Bucket, Limits

__all__ = ["CLOSING", "Stream", "Streams", "closed"]

COMPUTED = 8  #: frames of a client that wait for computing; further ones are answered with silence
UNANSWERED = 64  #: frames of a client, silent ones included, beyond which nothing is read from it
BURST = 1.0  #: seconds by which a client may be ahead of real time; frames beyond are answered with silence
CLOCK = 1.01  #: times real time that a client may send for ever: the clocks of sound devices differ
ABUSE = (2.0, 5.0)  #: times real time, and seconds beyond that, after which a client that sends so fast is disconnected
STATUS_SECONDS = 1.0
KEPT = 512  # answers whose times give the percentile

#: codes of closing, and a sentence for people
CLOSING = {
    "ended": (1001, "the server shuts down"),
    "fast": (1008, "frames arrive faster than real time: send them as they are recorded"),
    "idle": (1008, "no sound has arrived for a while"),
    "wrong": (1003, "send each frame as one binary message of {bytes} bytes"),
    "many": (1013, "all streams are taken: try again later"),
    "yours": (1013, "this address has as many streams as one may have: end one, or try again later"),
    "failed": (1011, "the network failed: the server's log says how"),
    "unknown": (4404, "there is no such model, or it cannot stream"),
    "strength": (1008, "strength must be a number from 0 to 1"),
}

logger = logging.getLogger(__name__)


class Stream:
    """One client's sound on its way through a network.

    Args:
        socket: accepted.
        stepper: a stream of the network; the first frame is its first.
        pool: of the threads that compute.
        limits: of the server.
        clock: seconds, from any point on.
    """

    def __init__(
        self,
        socket: WebSocket,
        stepper: Stepper,
        pool: ThreadPoolExecutor,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket, self._stepper, self._pool, self._limits, self._clock = socket, stepper, pool, limits, clock
        self._bytes = 4 * stepper.frame * len(stepper.sensors)
        self._silence = bytes(4 * stepper.frame)
        seconds = stepper.frame / stepper.sample_rate
        self._seconds = seconds
        self._pace = Bucket(CLOCK / seconds, max(BURST / seconds, COMPUTED), clock)
        self._patience = Bucket(ABUSE[0] / seconds, (BURST + ABUSE[1]) / seconds, clock)
        self._frames: deque[tuple[bytes | None, float]] = deque()  # None: not to be computed; when it arrived
        self._to_compute = 0
        self._arrived, self._room, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._busy = threading.Lock()  # of the thread that uses the stepper
        self._heard = clock()
        self._sending: float | None = None
        self.frames = self.dropped = self.resets = 0
        self._computing = 0.0
        self._times = np.zeros(KEPT, dtype=np.float32)
        self._told = clock()

    async def run(self, ready: str) -> None:
        """Carry sound until the client or the server ends the stream.

        Args:
            ready: the first message to the client.
        """
        with contextlib.suppress(WebSocketDisconnect, OSError):
            await self._send(ready)
        tasks = [asyncio.create_task(part) for part in (self._read(), self._answer(), self._ended.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | OSError):
                logger.error("a stream has failed", exc_info=result)
                self._closing = self._closing or CLOSING["failed"]
        if self._closing is not None:
            await closed(self._socket, *self._closing, self._limits)

    def end(self, code: int, reason: str) -> None:
        """Let the stream end with a code and a reason."""
        if self._closing is None:
            self._closing = (code, reason)
        self._ended.set()

    def look_after(self) -> None:
        """End the stream if its client is gone in all but name; called twice a second."""
        now = self._clock()
        if self._sending is not None and now - self._sending > self._limits.slow_seconds:
            abort(self._socket.scope)
        elif now - self._heard > self._limits.idle_seconds:
            self.end(*CLOSING["idle"])

    # ---------------------------------------------------------------- the event loop

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None or len(data) != self._bytes:
                code, reason = CLOSING["wrong"]
                self.end(code, reason.format(bytes=self._bytes))
                return
            self._heard = self._clock()
            if not self._patience.take():
                self.end(*CLOSING["fast"])
                return
            taken = self._to_compute < COMPUTED and self._pace.take()
            self._to_compute += taken
            self._frames.append((data if taken else None, self._heard))
            self._arrived.set()
            while len(self._frames) >= UNANSWERED:
                self._room.clear()
                await self._room.wait()

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._frames:
                batch = [self._frames.popleft() for _ in range(min(len(self._frames), COMPUTED))]
                chunks = [data for data, _ in batch if data is not None]
                outputs = iter(await loop.run_in_executor(self._pool, self._compute, chunks) if chunks else ())
                for data, arrived in batch:
                    answer = self._silence if data is None else next(outputs)
                    self._to_compute -= data is not None
                    await self._send(answer)
                    self._times[self.frames % KEPT] = self._clock() - arrived
                    self.frames += 1
                    self.dropped += data is None
                self._room.set()
                if self._clock() - self._told >= STATUS_SECONDS:
                    await self._tell()

    async def _send(self, answer: bytes | str) -> None:
        self._sending = self._clock()
        kind = "text" if isinstance(answer, str) else "bytes"
        await self._socket.send({"type": "websocket.send", kind: answer})
        self._sending = None

    async def _tell(self) -> None:
        self._told = self._clock()
        times = self._times[: min(self.frames, KEPT)]
        state = {
            "type": "status",
            "frames": self.frames,
            "dropped": self.dropped,
            "resets": self.resets,
            "p99_ms": round(1000 * float(np.percentile(times, 99)), 3),
            "load": round(self._computing / (max(1, self.frames - self.dropped) * self._seconds), 4),
        }
        await self._send(json.dumps(state))

    # ---------------------------------------------------------------- a thread of the pool

    def release(self) -> None:
        """Give up the stepper, after the frames that are being computed."""
        with self._busy:
            self._stepper.close()

    def _compute(self, chunks: list[bytes]) -> list[bytes]:
        with self._busy:
            begun = time.perf_counter()
            outputs = [self._step(chunk) for chunk in chunks]
            self._computing += time.perf_counter() - begun
        return outputs

    def _step(self, data: bytes) -> bytes:
        samples = np.frombuffer(data, dtype="<f4").reshape(self._stepper.frame, -1)
        chunk: Frames = np.array(samples.T, dtype=np.float32, order="C")  # a copy: PyTorch wants to own what it gets
        if np.isfinite(chunk).all():
            output = self._stepper.step(chunk)
            if np.isfinite(output).all():
                return output.astype("<f4", copy=False).tobytes()
        self._stepper.reset()  # what is not finite would stay in the state for ever
        self.resets += 1
        return self._silence


class Streams:
    """All live streams of a server.

    Args:
        limits: of the server.
        threads: that compute.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        self._limits = limits
        self._open: dict[Stream, str] = {}  # and the address of the client
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, "streaming", _one_thread)

    def full(self, client: str) -> str | None:
        """Return why an address has no place for another stream, as a key of ``CLOSING``; None if it has one."""
        if self._closed:
            return "ended"
        if len(self._open) >= self._limits.max_streams:
            return "many"
        theirs = sum(each == client for each in self._open.values())
        return "yours" if theirs >= self._limits.streams_of(client) else None

    async def carry(self, socket: WebSocket, stepper: Stepper, ready: Mapping[str, object], client: str) -> None:
        """Carry a stream to its end; the stepper is closed then.

        Args:
            socket: accepted.
            stepper: a stream of a network.
            ready: what the client is told first.
            client: its address.
        """
        stream = Stream(socket, stepper, self._pool, self._limits)
        self._open[stream] = client
        try:
            await stream.run(json.dumps(ready))
        finally:
            del self._open[stream]
            with contextlib.suppress(RuntimeError):  # the pool is shut down, and with it all that it held
                self._pool.submit(stream.release)

    def look_after(self) -> None:
        """End the streams of clients that are gone; called twice a second."""
        for stream in list(self._open):
            stream.look_after()

    async def close(self) -> None:
        """End all streams, and wait until their clients have been told, or do not listen."""
        self._closed = True
        for stream in list(self._open):
            stream.end(*CLOSING["ended"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while self._open:
                    await asyncio.sleep(0.01)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    """Let what this thread computes by PyTorch be computed by it alone."""
    import torch

    torch.set_num_threads(1)


async def closed(socket: WebSocket, code: int, reason: str, limits: Limits) -> None:
    """Close a socket with a code and a reason; one whose client does not read is dropped."""
    try:
        async with asyncio.timeout(min(1.0, limits.slow_seconds)):
            if socket.application_state != WebSocketState.DISCONNECTED:
                await socket.close(code, reason)
    except TimeoutError:
        abort(socket.scope)
    except (RuntimeError, WebSocketDisconnect, OSError):  # it is closed already
        pass
