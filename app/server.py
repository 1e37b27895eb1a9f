"""The one ASGI app: the pages, media by URL, and ``/health``. Its lifespan keeps the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import streamlit as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app.jobs import FIRST_FRAME, LAST_FRAME
from app.settings import ROOT, Settings
from app.supervisor import Supervisor, WorkerState
from app.workflow import CLIP, POSTER

MEDIA_TYPES = {CLIP: "video/mp4", POSTER: "image/webp", FIRST_FRAME: "image/png", LAST_FRAME: "image/png"}


def build(settings: Settings, worker_command: Sequence[str] | None = None) -> st.App:
    """The studio as an ASGI app. ``worker_command`` replaces the worker that it starts."""
    supervisor = Supervisor(settings.data, worker_command)
    return st.App(
        ROOT / "app" / "main.py",
        routes=[
            Route("/health", _health(supervisor)),
            Route("/files/jobs/{job_id}/{name}", _job_file(settings.data)),
            Route("/files/{path:path}", _no_file),  # or Streamlit would answer with its page
        ],
        lifespan=_keep(supervisor),
    )


def _keep(supervisor: Supervisor) -> Callable[[st.App], AbstractAsyncContextManager[dict[str, Any] | None]]:
    @asynccontextmanager
    async def lifespan(_: st.App) -> AsyncIterator[None]:
        supervisor.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(supervisor.end)

    return lifespan


def _health(supervisor: Supervisor) -> Callable[[Request], Response]:
    def health(_: Request) -> Response:
        """200 once pages are served (or this would not run) and a worker has the folder."""
        ready = supervisor.state is WorkerState.READY
        return JSONResponse(
            {"status": "ready" if ready else "not ready", "worker": supervisor.state}, 200 if ready else 503
        )

    return health


def _no_file(_: Request) -> Response:
    raise HTTPException(404)


def _job_file(data: Path) -> Callable[[Request], Response]:
    def job_file(request: Request) -> Response:
        """One of the few files a job may show; the id is hexadecimal and the name from a list, so no path gets out."""
        job_id, name = request.path_params["job_id"], request.path_params["name"]
        path = data / "jobs" / job_id / name
        if not (job_id.isalnum() and job_id.isascii() and name in MEDIA_TYPES and path.is_file()):
            raise HTTPException(404)
        return FileResponse(
            path,
            media_type=MEDIA_TYPES[name],
            filename=f"mova-{job_id[:8]}{path.suffix}",
            content_disposition_type="attachment" if "download" in request.query_params else "inline",
            headers={"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"},
        )

    return job_file
