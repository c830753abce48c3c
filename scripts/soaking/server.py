"""Clients of bcfusion serve that come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from bench_serve import Client, json_of, packed
from benchmarks.processes import environment

from soaking.judge import Bounds, Verdict, judged
from soaking.sampling import Sample, sampled

MODEL = "throat_causal"
TOGETHER = 5  # clients at a time
ANSWERED = 3  # of these, those that wait for all of their answers
FRAMES = 6
ENDING = 120.0  # seconds in which the server ends


def serving(folder: Path, connections: int, bounds: Bounds) -> tuple[list[Verdict], dict[str, float]]:
    """Connect, stream a little, and leave in five ways, again and again; judge the server's process.

    Args:
        folder: where the server's output goes.
        connections: number of clients, all together.
        bounds: what may grow.
    """
    command = [sys.executable, "-m", "bcfusion", "serve", MODEL, "--port", "0", "--threads", "1"]
    command += ["--max-rate", "10000"]  # all clients have one address, and come as fast as they can
    with (folder / "serve.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment(1), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()
        if not address:
            raise SystemExit(f"soak: the server did not start: {(folder / 'serve.txt').read_text()[-2000:]}")
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would hold the server
        samples, zombies, answers = asyncio.run(visits(process.pid, address[0], connections))
        process.send_signal(signal.SIGTERM)
        status = process.wait(ENDING)
    finally:
        process.kill()
        process.wait()
    verdicts = judged(samples, zombies, bounds)
    missing = connections // TOGETHER * ANSWERED - answers
    verdicts.append(Verdict("streams without all of their answers", missing, 0))
    verdicts.append(Verdict("status after SIGTERM, as a difference to its own", abs(status - 128 - signal.SIGTERM), 0))
    return verdicts, {
        "connections": connections // TOGETHER * TOGETHER,
        "MB at the end": round(samples[-1].megabytes, 1),
        "handles at the end": samples[-1].handles,
        "threads at the end": samples[-1].threads,
    }


async def visits(server: int, address: str, connections: int) -> tuple[list[Sample], int, int]:
    """Return samples of the server, one after each round of clients, zombies, and streams with all of their answers."""
    target = f"/api/live?model={json_of(address)[0]['name']}"
    place = urlsplit(address).netloc
    samples: list[Sample] = []
    zombies = answers = 0
    for number in range(connections // TOGETHER):
        results = await asyncio.gather(
            streamed(place, target, leaves="abort"),
            streamed(place, target, leaves="close"),
            streamed(place, target, leaves="garbage"),
            vanished(place, target),
            asyncio.to_thread(json_of, address),
        )
        answers += sum(result is True for result in results)
        for _ in range(50):  # until the server has taken note that they are gone
            await asyncio.sleep(0.05)
            found, dead = sampled(server, float(number))
            if not samples or found[0].handles <= samples[0].handles:
                break
        samples += found
        zombies += dead
    return samples, zombies, answers


async def streamed(place: str, target: str, leaves: str) -> bool:
    """Send some frames, and return whether all were answered; then leave."""
    client = await connected(place, target)
    try:
        ready = await asyncio.wait_for(client.ready, 60)
        samples = ready["frame"] * len(ready["sensors"])
        noise = (0.07 * np.random.default_rng(0).standard_normal(samples)).astype("<f4").tobytes()
        for _ in range(FRAMES):
            client.send(packed(noise))
        for _ in range(6000):
            if len(client.times) == FRAMES or client.gone.done():
                break
            await asyncio.sleep(0.01)
        if leaves == "close":
            client.send(packed((1000).to_bytes(2, "big"), 8))
        elif leaves == "garbage":
            client.send(packed(os.urandom(100)))
        if leaves != "abort":
            await asyncio.wait_for(client.gone, 60)
        return len(client.times) == FRAMES
    finally:
        client.close()


async def connected(place: str, target: str) -> Client:
    """Return a client that has sent its handshake."""
    host, _, port = place.rpartition(":")
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(place, target), host, int(port))
    return client


async def vanished(place: str, target: str) -> None:
    """Ask for a stream, and be gone before the answer."""
    (await connected(place, target)).close()
