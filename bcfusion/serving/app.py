"""The routes of the server."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import FastAPI, Request, WebSocket
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from bcfusion.serving.assets import PAGE, Asset
from bcfusion.serving.guard import Guard, Hosts, failed
from bcfusion.serving.jobs import Job, Jobs
from bcfusion.serving.limits import Limits
from bcfusion.serving.live import CLOSING, Streams, closed
from bcfusion.serving.models import ServedModel
from bcfusion.serving.receiving import Receiving
from bcfusion.serving.restoring import check_recording
from bcfusion.serving.uploads import Refused

__all__ = ["Parts", "build_app"]

PIECE = 1 << 16  # bytes of a result that are sent at once, each in Limits.slow_seconds
_SENTENCES = {404: "there is nothing at this address", 405: "this address does not take that method"}


@dataclass(frozen=True)
class Parts:
    """What the routes use.

    Attributes:
        models: by name, in their order.
        assets: files of the page.
        limits: of the server.
        jobs: recordings.
        streams: live streams.
        receiving: uploads.
        share: of the sensor in the output, where the client says nothing.
    """

    models: Mapping[str, ServedModel]
    assets: Mapping[str, Asset]
    limits: Limits
    jobs: Jobs
    streams: Streams
    receiving: Receiving
    share: float = 0.0


def build_app(parts: Parts, hosts: Hosts) -> Guard:
    """Return the application.

    Args:
        parts: what the routes use.
        hosts: the names of the server.
    """
    checking = ThreadPoolExecutor(2, thread_name_prefix="checking")
    sending = ThreadPoolExecutor(4, thread_name_prefix="sending")
    most_sensors = max(len(model.sensors) for model in parts.models.values())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_look_after(parts))
        yield
        task.cancel()
        for pool in (checking, sending):
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        wait = {429: "5", 503: "30"}.get(error.status)
        return failed(error.status, str(error), {"Retry-After": wait} if wait else None)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return failed(error.status_code, _SENTENCES.get(error.status_code, str(error.detail)), error.headers)

    @app.get("/healthz")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/")
    async def page() -> Response:
        return _asset(parts.assets, PAGE)

    @app.get("/assets/{name}")
    async def asset(name: str) -> Response:
        return _asset(parts.assets, name)

    @app.get("/api/models")
    async def models() -> JSONResponse:
        return JSONResponse([model.plain() for model in parts.models.values()])

    @app.get("/api/limits")
    async def limits() -> JSONResponse:
        return JSONResponse(parts.limits.plain())

    @app.post("/api/jobs")
    async def submit(request: Request) -> Response:
        job = parts.jobs.receive(request.scope["state"]["client"])
        try:
            form = await parts.receiving.form(request, job.folder, most_sensors)
            model = parts.models.get(form.values.get("model", ""))
            if model is None:
                raise Refused(404, f"there is no such model: choose one of {', '.join(parts.models)}")
            share = _share(form.values.get("strength"), parts.share)
            if not form.files:
                raise Refused(422, "send a recording as the field file")
            job.files = form.files
            loop = asyncio.get_running_loop()
            job.seconds = await loop.run_in_executor(
                checking, check_recording, model, form.files, parts.limits.max_seconds
            )
            parts.jobs.submit(job, model, share)
        except ClientDisconnect:
            parts.jobs.remove(job)
            return Response(status_code=400)  # nobody hears it
        except BaseException:
            parts.jobs.remove(job)
            raise
        return JSONResponse({"id": job.id}, 202)

    @app.get("/api/jobs/{id}")
    async def state(id: str) -> JSONResponse:
        return JSONResponse(parts.jobs.plain(_job(parts.jobs, id)))

    @app.delete("/api/jobs/{id}")
    async def delete(id: str) -> Response:
        job = _job(parts.jobs, id)
        await asyncio.get_running_loop().run_in_executor(sending, parts.jobs.remove, job)
        return Response(status_code=204)

    @app.get("/api/jobs/{id}/{sound}.wav")
    async def sound(id: str, sound: str, download: str = "") -> Response:
        job = _job(parts.jobs, id)
        if sound not in job.sounds():
            raise Refused(404, f"there is no such sound: ask for {', '.join(job.sounds())}")
        if job.state != "done":
            raise Refused(404, "this recording is not restored yet: ask for its state first")
        try:
            file = (job.folder / f"{sound}.wav").open("rb")
        except OSError as error:
            raise Refused(404, "the result has been deleted: send the recording again") from error
        size = file.seek(0, 2)
        file.seek(0)
        headers = {"Content-Length": str(size)}
        if download == "1":
            headers["Content-Disposition"] = f'attachment; filename="{_download_name(job, sound)}"'
        return StreamingResponse(_pieces(file, sending), media_type="audio/wav", headers=headers)

    @app.websocket("/api/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        refusal = socket.scope["state"].get("refusal")
        if refusal is not None:
            await closed(socket, 1008, refusal[1], parts.limits)
            return
        model = parts.models.get(socket.query_params.get("model", ""))
        if model is None or model.network is None:
            await closed(socket, *CLOSING["unknown"], parts.limits)
            return
        try:
            share = _share(socket.query_params.get("strength"), parts.share)
        except Refused:
            await closed(socket, *CLOSING["strength"], parts.limits)
            return
        client = socket.scope["state"]["client"]
        if (full := parts.streams.full(client)) is not None:
            await closed(socket, *CLOSING[full], parts.limits)
            return
        described = model.plain()
        ready = {
            "type": "ready",
            "sample_rate": model.network.sample_rate,
            "frame": model.network.frame,
            "sensors": list(model.sensors),
            "mixed_sensor": model.mixed_sensor,
            "latency_ms": described["latency_ms"],
        }
        await parts.streams.carry(socket, model.network.open(share), ready, client)

    return Guard(app, hosts, parts.limits)


async def _look_after(parts: Parts) -> None:
    while True:
        await asyncio.sleep(0.5)
        parts.streams.look_after()
        await asyncio.to_thread(parts.jobs.sweep)


def _asset(assets: Mapping[str, Asset], name: str) -> Response:
    asset = assets.get(name)
    if asset is None:
        raise Refused(404, "there is no such file")
    return Response(asset.content, media_type=asset.kind, headers={"Cache-Control": "no-cache"})


def _job(jobs: Jobs, id: str) -> Job:
    job = jobs.get(id)
    if job is None:
        raise Refused(404, "there is no such recording: its result may have been deleted; send it again")
    return job


def _share(strength: str | None, default: float) -> float:
    """Return the share of the sensor that a strength leaves."""
    if not strength:
        return default
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refused(422, "strength must be a number from 0 to 1")
    return 1 - value


async def _pieces(file: BinaryIO, pool: ThreadPoolExecutor) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    with file:
        while piece := await loop.run_in_executor(pool, file.read, PIECE):
            yield piece


def _download_name(job: Job, sound: str) -> str:
    """Return a name for a download that is safe in a header: the recording's own, as far as it is ASCII."""
    name = job.files[0][0] if job.files else "recording"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem).strip("._") or "recording"
    kind = job.model.name if job.model and sound == "output" else sound
    return f"{stem[:80]}-{re.sub(r'[^A-Za-z0-9._-]+', '_', kind)[:40]}.wav"
