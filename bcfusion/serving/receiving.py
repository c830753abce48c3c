"""The body of an upload: within its bounds of size and time, and ended with the server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from starlette.requests import Request

from bcfusion.serving.limits import Limits
from bcfusion.serving.uploads import Form, Refused, receive_form

__all__ = ["Receiving"]


class Receiving:
    """Uploads that are under way, which the end of the server ends, too.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tasks: set[asyncio.Task[Form]] = set()
        self._ended = False

    async def form(self, request: Request, folder: Path, max_files: int) -> Form:
        """Return the form that a request brings.

        Args:
            request: whose body has not been read.
            folder: for its files.
            max_files: that it may hold.

        Raises:
            Refused: it is too big, too slow or no form, the disk is full, or the server ends.
        """
        _check_announced(request, self._limits)
        return await self._ended_with_the_server(_received(request, folder, max_files, self._limits))

    async def _ended_with_the_server(self, upload: Coroutine[Any, Any, Form]) -> Form:
        task = asyncio.create_task(upload)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._ended:
                raise Refused(503, "the server shuts down: try again later") from None
            task.cancel()
            raise
        finally:
            self._tasks.discard(task)

    def cancel(self) -> None:
        """End all uploads."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _check_announced(request: Request, limits: Limits) -> None:
    """Refuse at once what says of itself that it is too big; what says nothing is counted."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.max_bytes:
        raise Refused(413, f"the upload is larger than {limits.max_bytes / 1e6:g} MB: send a shorter recording")


async def _received(request: Request, folder: Path, max_files: int, limits: Limits) -> Form:
    kind = request.headers.get("content-type", "")
    try:
        async with asyncio.timeout(limits.upload_seconds):
            pieces = _in_time(request.stream(), limits)
            return await receive_form(kind, pieces, folder, limits.max_bytes, max_files)
    except TimeoutError as error:
        raise Refused(408, "the upload takes too long: send it again") from error
    except OSError as error:
        if shutil.disk_usage(folder).free < limits.max_bytes:
            raise Refused(507, "the server's disk is full: try again later") from error
        raise


async def _in_time(pieces: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; each has to arrive in time, and all of them not too slowly."""
    begun, received = time.monotonic(), 0
    while True:
        async with asyncio.timeout(limits.silent_seconds):
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
        received += len(piece)
        late = time.monotonic() - begun - limits.silent_seconds
        if received < late * limits.upload_rate:
            raise TimeoutError
        yield piece
