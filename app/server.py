"""The one ASGI app: pages, media by URL, the API and ``/health``; for its own pages and programs. Keeps the worker."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import api, apidocs
from app.entrance import REFUSED, Entrance
from app.jobs import FIRST_FRAME, LAST_FRAME
from app.settings import ROOT, Settings
from app.shelf import draft_path
from app.supervisor import Supervisor, WorkerState
from app.workflow import CLIP, POSTER

MEDIA_TYPES = {CLIP: "video/mp4", POSTER: "image/webp", FIRST_FRAME: "image/png", LAST_FRAME: "image/png"}
FRAME = re.compile(r"frame-[0-9a-f]{12}\.png")  # painted, or brought by the creator to a job that was there already
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/@\[\]]+))(?::\d*)?")  # a name or an address, and a port

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # a job's id in the address is nobody else's business
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build(settings: Settings, worker_command: Sequence[str] | None = None) -> st.App:
    """The studio as an ASGI app. ``worker_command`` replaces the worker that it starts."""
    supervisor = Supervisor(settings.data, worker_command)
    return st.App(
        ROOT / "app" / "main.py",
        routes=[
            Route("/health", _health(supervisor)),
            Route("/files/jobs/{job_id}/{name}", _job_file(settings.data)),
            Route("/files/drafts/{name}", _draft_file(settings.data)),
            Route("/files/{path:path}", _no_file),  # or Streamlit would answer with its page
            api.routes(settings),
            *apidocs.routes(),
        ],
        middleware=_guards(settings),
        lifespan=_keep(supervisor),
        on_script_error=_say_refusal,
    )


def _guards(settings: Settings) -> list[Middleware]:
    token = settings.token.get_secret_value().strip() if settings.token else ""
    if token:
        return [Middleware(Guard), Middleware(Entrance, token=token)]
    return [Middleware(Guard, only=settings.host)]


def _say_refusal(error: Exception) -> bool:
    from app.failures import say_refusal  # noqa: PLC0415  what pages use warns where no page runs yet

    return say_refusal(error)


class Guard:
    """Refuses what another site's page asks for, and tells browsers to keep the answers from it.

    ``only``: without a token the studio goes by this name and this machine's own, and no other. A site whose name
    leads here (DNS rebinding) would be the studio's own to browsers, and its page could ask for anything.
    """

    def __init__(self, app: ASGIApp, only: str | None = None) -> None:
        self._app = app
        self._only = only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, and no ``BaseHTTPMiddleware``, which would hold up files and not see websockets."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": REFUSED})
        else:
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> str | None:
        host = Headers(scope=scope).get("host", "")
        if self._only is not None and not _is_own_name(host, self._only):
            return (
                f"The studio doesn't go by the name {host[:100]!r}. Open it as localhost or 127.0.0.1; to reach it by "
                "another name, set STUDIO_TOKEN to a long random text."
            )
        return "Open the studio in a tab of its own." if _from_another_site(scope) else None


def _is_own_name(host: str, chosen: str) -> bool:
    """Whether a ``Host`` is this machine's, which no other site's name can be made to be, or the one that was set."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1] or found[2]
    if name in ("localhost", chosen.lower()) or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:  # a name
        return False


def _from_another_site(scope: Scope) -> bool:
    """A link to the studio may be followed from anywhere; nothing else may come from another site.

    To browsers another port of this machine is the same site, and older ones don't tell: what they write has an origin,
    and so have their websockets, which no browser keeps from other sites.
    """
    headers = Headers(scope=scope)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if scope["type"] == "websocket":
        return origin is not None and not _is_own_origin(origin, headers)
    if scope["method"] not in ("GET", "HEAD") and origin is not None and site not in ("same-origin", "none"):
        return not _is_own_origin(origin, headers)
    followed = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
    return site == "cross-site" and not followed


def _is_own_origin(origin: str, headers: Headers) -> bool:
    place = origin.partition("://")[2].lower()
    return bool(place) and place == headers.get("host", "").lower()


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
        media_type = "image/png" if FRAME.fullmatch(name) else MEDIA_TYPES.get(name)
        if not (job_id.isalnum() and job_id.isascii() and media_type and path.is_file()):
            raise HTTPException(404)
        shown_as = f"mova-{job_id[:8]}{path.suffix}"
        return _file(path, media_type, shown_as, download="download" in request.query_params)

    return job_file


def _draft_file(data: Path) -> Callable[[Request], Response]:
    def draft_file(request: Request) -> Response:
        """A picture of the Create form's; the name's letters let no path out."""
        try:
            path = data / draft_path(request.path_params["name"])
        except ValueError:
            raise HTTPException(404) from None
        if path.name != request.path_params["name"] or not path.is_file():
            raise HTTPException(404)
        return _file(path, "image/png", path.name)

    return draft_file


def _file(path: Path, media_type: str, shown_as: str, *, download: bool = False) -> Response:
    return FileResponse(
        path,
        media_type=media_type,
        filename=shown_as,
        content_disposition_type="attachment" if download else "inline",
        headers={"Cache-Control": "private, no-cache"},
    )
