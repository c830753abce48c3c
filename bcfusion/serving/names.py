"""Under which names and addresses other machines reach this one."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

__all__ = ["ANY", "addresses_for_others", "own_names"]

#: hosts that stand for all addresses of this machine
ANY = ("0.0.0.0", "::", "")  # nosec B104 # compared with, not bound to
# a datagram socket that is "connected" says from which address it would send, and sends nothing
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # addresses kept for examples


def own_names() -> list[str]:
    """Return the names of this machine, in lower case; the second one is of mDNS."""
    own = socket.gethostname().lower()
    return [own, own if own.endswith(".local") else f"{own}.local"]


def addresses_for_others(host: str, address: str) -> list[str]:
    """Return the addresses of a server, as one types them into a browser on another machine.

    Args:
        host: to which it is bound; unless that stands for all addresses, there is nothing to add.
        address: for this machine.
    """
    if host.strip("[]") not in ANY:
        return []
    families = _ELSEWHERE[: 1 if host == ANY[0] else 2]
    hosts = [found for family, elsewhere in families if (found := _own_address(family, elsewhere))]
    parts = urlsplit(address)
    hosts = [f"[{each}]" if ":" in each else each for each in [*hosts, own_names()[0]]]
    return [f"{parts.scheme}://{each}:{parts.port}/" for each in hosts]


def _own_address(family: socket.AddressFamily, elsewhere: str) -> str | None:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:  # OSError: no network
        probe.connect((elsewhere, 9))
        return str(probe.getsockname()[0])
    return None
