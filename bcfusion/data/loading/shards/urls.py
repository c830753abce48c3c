"""Shards at URLs: opening them, and reporting why that failed."""

from __future__ import annotations

import re
from typing import BinaryIO

#: what an exit status of curl means, which ``webdataset`` uses for http and https
_CURL = {
    6: ": there is no such host",
    7: ": nothing answers there",
    22: ": the server refuses it",
    28: ": it is too slow",
}


def opened(url: str) -> BinaryIO:
    """Return the bytes at a URL as a stream; see :class:`bcfusion.data.loading.shards.remote.StreamedShards`."""
    import webdataset

    stream: BinaryIO = webdataset.gopen(url)
    return stream


def closed(stream: BinaryIO | None) -> OSError | None:
    """Close a stream and return what the command at its other end reports, even if only that the rest was not read."""
    try:
        if stream is not None:
            stream.close()
    except OSError as error:
        return error
    return None


def reason(url: str, error: Exception) -> str:
    """Return why a URL cannot be read and what to do, instead of the text of ``webdataset``."""
    text = str(error)
    if "no gopen handler" in text:
        return f"webdataset cannot open such an address itself; use a command that fetches it: 'pipe:COMMAND {url}'"
    if status := re.search(r": exit (-?\d+) ", text):
        why = _CURL.get(int(status[1]), "") if url.startswith("http") else ""
        return (
            f"the command that fetches it ended with status {status[1]}{why}; check the address and your access to it"
        )
    return error.strerror if isinstance(error, OSError) and error.strerror else text
