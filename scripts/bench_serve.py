"""Measure how many live streams one core of bcfusion serve holds.

python scripts/bench_serve.py                                  throat_causal, by 1, 4, 16 and then more streams
python scripts/bench_serve.py bandwidth_8k --seconds 30
python scripts/bench_serve.py --write docs/serve.md            put the table into the page, too

The server is a process of its own that may use one core alone. The clients are together another process, on the other
cores: each sends a frame of noise at the moment at which a microphone would have recorded it, and wants the answer
before the next frame is complete. The number of streams grows until more than one answer in a thousand is late or was
dropped, and is then narrowed down. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import numpy as np

from bcfusion.files import write_text

BEGIN, END = "<!-- streams: scripts/bench_serve.py --write docs/serve.md -->", "<!-- /streams -->"
HEADER = (
    "| streams | answer: median | 99 % within | late | dropped | CPU of the server | CPU of a stream |",
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)
COUNTS = (1, 4, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TRIES = 3  # of a count, of which the best one counts: other work on the machine only makes answers late
QUIET = 1.0  # load average up to which a table is written
ALLOWED = 1e-3  # of the answers may be late or dropped
WARM_UP = 1.0  # seconds that are not counted


def busy_seconds(process: int) -> float:
    """Return the CPU time of a process with its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_server(model: str, streams: int, core: int, backend: str) -> tuple[subprocess.Popen[str], str]:
    """Return the process of a server that may use one core, and its address."""
    options = ["--port", "0", "--max-streams", str(streams), "--max-rate", "10000", "--threads", "1"]
    command = [sys.executable, "-m", "bcfusion", "serve", model, *options, "--backend", backend]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()
    if not address:
        raise SystemExit(f"the server did not start: {process.wait()}")
    return process, address[0]


class Client(asyncio.Protocol):
    """A WebSocket that costs little: hundreds of them in one process must not be slower than the server.

    Args:
        place: host and port, for the handshake.
        target: path and query.

    Attributes:
        ready: what the server says first.
        sent: when each frame was sent, by the clock of the loop.
        times: seconds until each was answered.
        dropped: frames that the server has given up, as it says.
    """

    def __init__(self, place: str, target: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = (
            f"GET {target} HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self._received, self._open = bytearray(), False
        self.ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.gone: asyncio.Future[str] = self._loop.create_future()
        self.sent: list[float] = []
        self.times: list[float] = []
        self.dropped = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._head.encode())

    def connection_lost(self, error: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(str(error or "the server has closed the stream"))

    def send(self, packet: bytes) -> None:
        """Send a message that :func:`packed` has made."""
        self.sent.append(self._loop.time())
        self._transport.write(packet)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._open:
            _, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._open, self._received = True, rest
        while len(self._received) >= 2:
            size, start = self._received[1] & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._received[2:start], "big")
            if len(self._received) < start + size:
                return
            self._take(self._received[0] & 0xF, bytes(self._received[start : start + size]))
            del self._received[: start + size]

    def _take(self, opcode: int, content: bytes) -> None:
        if opcode == 2:
            self.times.append(self._loop.time() - self.sent[len(self.times)])
        elif opcode == 1:
            said = json.loads(content)
            if said["type"] == "ready":
                self.ready.set_result(said)
            else:
                self.dropped = said["dropped"]
        elif opcode == 9:
            self._transport.write(packed(content, 10))
        elif opcode == 8:
            self.gone.set_result(content[2:].decode())


def packed(content: bytes, opcode: int = 2) -> bytes:
    """Return a message as it is sent, under a mask of zeros."""
    size = len(content)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    if size > 0xFFFF:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + content


async def clients(url: str, count: int, seconds: float) -> dict[str, Any]:
    """Run streams side by side, and return what they measured together. Their frames are due one after the other."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    streams = []
    for _ in range(count):
        _, client = await loop.create_connection(
            lambda: Client(parts.netloc, f"{parts.path}?{parts.query}"), parts.hostname, parts.port
        )
        streams.append(client)
    for client in streams:
        ready = await asyncio.wait_for(client.ready, 60)
    length = ready["frame"] / ready["sample_rate"]
    samples = ready["frame"] * len(ready["sensors"])
    packet = packed((0.07 * np.random.default_rng(0).standard_normal(samples)).astype("<f4").tobytes())
    frames, warm = round(seconds / length), round(WARM_UP / length)
    begin = loop.time() + 0.5
    for number in range(frames):
        for place, client in enumerate(streams):
            due = begin + (number + place / count) * length
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            elif place % 8 == 0:
                await asyncio.sleep(0)  # to read what has arrived
            client.send(packet)
    until = loop.time() + 30
    while any(len(client.times) < frames and not client.gone.done() for client in streams) and loop.time() < until:
        await asyncio.sleep(0.01)
    ended = [client.gone.result() for client in streams if client.gone.done()]
    for client in streams:
        client.close()
    if ended:
        raise SystemExit(f"{len(ended)} streams ended early: {ended[0]}")
    times = 1000 * np.concatenate([client.times[warm:] for client in streams])
    return {
        "frame_ms": 1000 * length,
        "frames": len(times),
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.percentile(times, 99)),
        "late": float((times > 1000 * length).mean()),
        "dropped": sum(client.dropped for client in streams) / (count * frames),
    }


def measure(process: int, address: str, model: str, count: int, seconds: float) -> dict[str, Any]:
    """Run clients in a process of their own, and return what they measured and the CPU time of the server."""
    name = json_of(address)[0]["name"]
    url = f"{address.replace('http', 'ws', 1)}api/live?model={name}"
    command = [sys.executable, __file__, model, "--clients", url, str(count), "--seconds", str(seconds)]
    busy, begun = busy_seconds(process), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begun
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": reason}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    used = busy_seconds(process) - busy
    result["cpu"] = used / min(took, seconds)  # before and after the streams the server does nothing
    return result


def best(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the first measurement that holds, of at most ``TRIES``; else the one with the fewest late answers."""
    results: list[dict[str, Any]] = []
    while len(results) < TRIES and not (results and holds(results[-1])):
        results.append(measured())
    return min(results, key=lambda each: (not holds(each), each.get("late", 2.0) + each.get("dropped", 0.0)))


def doubts(results: dict[int, dict[str, Any]], load: float) -> str | None:
    """Return why results are not fit to be published; None if they are."""
    if load > QUIET:
        return f"the load average was {load:.1f}: measure on a machine that does nothing else"
    held = max((count for count, result in results.items() if holds(result)), default=0)
    if failed := [count for count, result in results.items() if count < held and not holds(result)]:
        return f"{failed[0]} streams were not held and {held} were: other work must have disturbed the measurement"
    return None


def json_of(address: str) -> Any:
    from urllib.request import urlopen

    with urlopen(f"{address}api/models") as answer:  # nosec B310 # http, a server of this script
        return json.loads(answer.read())


def holds(result: dict[str, Any]) -> bool:
    """Return whether so many streams are held: few answers are late or dropped."""
    return "failed" not in result and result["late"] + result["dropped"] <= ALLOWED


def narrowed(results: dict[int, dict[str, Any]]) -> int | None:
    """Return the number of streams that is to be measured next; None if the limit is known well enough."""
    held = max((count for count, result in results.items() if holds(result)), default=0)
    above = [count for count, result in results.items() if count > held and not holds(result)]
    if not above:
        return next((count for count in COUNTS if count > held and count not in results), None)
    if min(above) - held <= max(1, held // 8):
        return None
    return (min(above) + held) // 2


def row(count: int, result: dict[str, Any]) -> str:
    """Return the row of the table."""
    if "failed" in result:
        return f"| {count} | fails: {result['failed'].replace('|', '/')} | | | | | |"
    cells = [
        f"{count}",
        f"{result['median_ms']:.1f} ms",
        f"{result['p99_ms']:.1f} ms",
        f"{100 * result['late']:.2f} %",
        f"{100 * result['dropped']:.2f} %",
        f"{100 * result['cpu']:.0f} %",
        f"{100 * result['cpu'] / count:.1f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def report(model: str, results: dict[int, dict[str, Any]]) -> list[str]:
    """Return the table, and a sentence with the result."""
    held = max((count for count, result in results.items() if holds(result)), default=0)
    limit = "" if any(not holds(result) for result in results.values()) else "at least "
    sentence = (
        f"One core holds {limit}{held} streams of `{model}`: at most {ALLOWED:.1%} of the answers late or dropped."
    )
    return [*HEADER, *(row(count, result) for count, result in sorted(results.items())), "", sentence]


def replaced(text: str, lines: list[str]) -> str:
    """Return a page with a new table between the markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no markers {BEGIN} and {END}")
    return "\n".join([head + begin, "", *lines, "", end]) + tail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="throat_causal", help="a causal model; default: throat_causal")
    parser.add_argument("--seconds", type=float, default=20.0, help="of sound of each stream; default: 20")
    parser.add_argument("--streams", type=int, nargs="+", help="these numbers of streams, and no others")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)), help="of the server")
    parser.add_argument("--backend", choices=("auto", "onnx", "torch"), default="auto", help="default: auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--note", default="", help="a sentence that is written below the table")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--clients", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clients:
        url, count = arguments.clients
        print(json.dumps(asyncio.run(clients(url, int(count), arguments.seconds))))
        return
    others = os.sched_getaffinity(0) - {arguments.core}
    if not others:
        raise SystemExit("the clients need a core of their own: this process may use one core alone")
    load = os.getloadavg()[0]
    if arguments.write and load > QUIET:
        raise SystemExit(doubts({}, load))
    process, address = start_server(arguments.model, max(COUNTS), arguments.core, arguments.backend)
    results: dict[int, dict[str, Any]] = {}
    try:
        os.sched_setaffinity(0, others)
        wanted = iter(arguments.streams or ())
        while (count := next(wanted, None) if arguments.streams else narrowed(results)) is not None:
            results[count] = best(partial(measure, process.pid, address, arguments.model, count, arguments.seconds))
            print(row(count, results[count]), flush=True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    if arguments.json:
        write_text(arguments.json, json.dumps({"model": arguments.model, "streams": results}, indent=2) + "\n")
    from importlib.metadata import version

    import networks_table

    library = "torch" if arguments.backend == "torch" else "onnxruntime"
    frame = next((result["frame_ms"] for result in results.values() if "frame_ms" in result), float("nan"))
    note = (
        f"Answer: from sending a frame of {frame:g} ms to its answer; late: after the next frame was complete. Each "
        f"stream {arguments.seconds:g} s at real-time pace; clients on another core of {networks_table.processor()}, "
        f"{library} {version(library)}. {arguments.note}"
    ).strip()
    lines = [*report(arguments.model, results), "", note]
    print("\n".join(["", *lines]))
    if arguments.write:
        if doubt := doubts(results, load):
            raise SystemExit(f"{arguments.write} is left as it is: {doubt}")
        write_text(arguments.write, replaced(arguments.write.read_text(encoding="utf-8"), lines))


if __name__ == "__main__":
    main()
