"""The bounds of a server: on size, length, number and rate. Nothing that a client sends is kept beyond them.

No address of another machine has more than a part of the places, so that one client cannot take them all. This machine
may: whoever uses it by himself has the whole server.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Bucket", "Limits", "Rates", "address_of", "is_local"]

CLIENTS = 4096  #: addresses whose rate is remembered


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        max_seconds: of a recording.
        max_bytes: of an upload, with everything around its files.
        max_streams: live streams at a time.
        max_jobs: recordings at a time that are received, wait or are restored.
        keep_minutes: after which a result is deleted.
        requests: per second of one address, on average; short bursts may be five times as fast.
        idle_seconds: without a sound after which a stream is closed.
        slow_seconds: after which a client that takes no data is disconnected.
        silent_seconds: in which a request has to arrive, and each further piece of an upload.
        upload_seconds: in which an upload has to end.
        upload_rate: bytes per second below which an upload is given up, after the first ``silent_seconds``.
    """

    max_seconds: float = 600.0
    max_bytes: int = 100_000_000
    max_streams: int = 16
    max_jobs: int = 8
    keep_minutes: float = 30.0
    requests: float = 20.0
    idle_seconds: float = 30.0
    slow_seconds: float = 10.0
    silent_seconds: float = 15.0
    upload_seconds: float = 900.0
    upload_rate: float = 4000.0

    @property
    def kept_jobs(self) -> int:
        """Finished jobs that are kept at most; further ones take the place of the oldest."""
        return 4 * self.max_jobs

    @property
    def connections(self) -> int:
        """Connections at a time."""
        return 100 + 4 * (self.max_streams + self.max_jobs)

    def streams_of(self, client: str) -> int:
        """Return the live streams that one address may have at a time: half of them."""
        return self.max_streams if is_local(client) else -(-self.max_streams // 2)

    def jobs_of(self, client: str) -> int:
        """Return the recordings of one address that may arrive, wait or be restored at a time: half of them."""
        return self.max_jobs if is_local(client) else -(-self.max_jobs // 2)

    def connections_of(self, client: str) -> int:
        """Return the connections that one address may have at a time: a quarter of them."""
        return self.connections if is_local(client) else self.connections // 4

    def plain(self) -> dict[str, float]:
        """Return what a page needs to know."""
        names = ("max_seconds", "max_bytes", "max_streams", "max_jobs", "keep_minutes")
        return {name: getattr(self, name) for name in names}


def address_of(text: str) -> str | None:
    """Return an address as clients are counted; None if it is none.

    Of IPv6 it is the network of 64 bits, since a client has all of its addresses.
    """
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_local(client: str) -> bool:
    """Return whether a client, by its address, is this machine."""
    return client == "::1" or client.startswith("127.")


class Bucket:
    """A budget that is spent in pieces and filled up at a constant rate.

    Args:
        rate: by which it grows per second.
        most: what it holds at most, and at first.
        clock: seconds, from any point on.
    """

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, most, clock
        self._held, self._at = most, clock()

    def take(self, amount: float = 1.0) -> bool:
        """Spend an amount, and return True; or return False if it is not there."""
        now = self._clock()
        self._held = min(self._most, self._held + (now - self._at) * self._rate)
        self._at = now
        if self._held < amount:
            return False
        self._held -= amount
        return True


class Rates:
    """Requests of each client. Only the addresses that were seen last are remembered.

    Args:
        rate: requests per second that a client may make on average.
        clock: seconds, from any point on.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def allow(self, client: str) -> bool:
        """Count a request, and return whether it is within the rate."""
        bucket = self._buckets.pop(client, None) or Bucket(self._rate, max(5 * self._rate, 1.0), self._clock)
        self._buckets[client] = bucket
        while len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return bucket.take()
