"""The studio's queue for programs: ``/v1``, in the shapes that OpenAI's and SGLang's clients know."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from app.apierrors import FINAL, ApiError
from app.ask import LONGEST_PROMPT, Body, Sent, receive, understand, unwrap
from app.checkpoints import find_checkpoints
from app.intake import Direction, KeyReused, Ticket
from app.jobs import Job, Status
from app.settings import Settings
from app.store import JobStore, StoreError
from app.videos import brief_of, model, named, video
from app.workflow import CLIP, POSTER
from mova.layout import CheckpointInfo
from mova.picture import PictureError

MOST_LISTED, LISTED = 100, 20
AT_ONCE = 4  # bodies that are decoded at the same time: a picture takes hundreds of megabytes while it is
THREADS = 16  # calls of the store under way
RECEIVE_SECONDS = 600.0  # for a body to come
KNOWN_SECONDS = 5.0  # for which checkpoints aren't looked for again
POLL_MS = "1000"  # what is suggested to OpenAI's client

CONTENTS = {"video": (CLIP, "video/mp4"), "thumbnail": (POSTER, "image/webp")}
LATER = {
    "edits": "Edits of videos are not made here yet. Remix a video, or make a new one.",
    "extensions": "Extensions of videos are not made here yet. Make a new video from the last frame of the other.",
    "characters": "Characters are not made here yet. Describe them in the prompt, or show them in input_reference.",
}

Result = TypeVar("Result")


def routes(settings: Settings) -> Mount:
    """All of ``/v1``."""
    api = _Api(settings)
    return Mount(
        "/v1",
        Starlette(
            routes=[
                Route("/videos", api.create, methods=["POST"]),
                Route("/videos", api.list_all),
                *(Route(f"/videos/{name}", api.later, methods=["POST", "GET"]) for name in LATER),
                Route("/videos/characters/{character_id}", api.later, methods=["GET", "DELETE"]),
                Route("/videos/{video_id}", api.retrieve),
                Route("/videos/{video_id}", api.delete, methods=["DELETE"]),
                Route("/videos/{video_id}/content", api.content),
                Route("/videos/{video_id}/cancel", api.cancel, methods=["POST"]),
                Route("/videos/{video_id}/remix", api.remix, methods=["POST"]),
                Route("/models", api.models),
                Route("/models/{name:path}", api.one_model),
            ],
            exception_handlers={
                ApiError: _refused,
                HTTPException: _not_here,
                StoreError: _closed,
                PictureError: _no_picture,
                ClientDisconnect: _gone,
                OSError: _no_disk,
                Exception: _broken,
            },
        ),
        name="api",
    )


class _Api:
    """The routes. What takes time or the disk is done in threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = JobStore(settings.data)
        self._decoding = anyio.CapacityLimiter(AT_ONCE)
        self._calls = anyio.CapacityLimiter(THREADS)
        self._known: tuple[float, list[CheckpointInfo]] | None = None
        self._looking = threading.Lock()

    async def create(self, request: Request) -> Response:
        """Queue a video."""
        return await self._take(request, self._submit)

    async def remix(self, request: Request) -> Response:
        """Queue another with these words: everything else as it was."""
        return await self._take(request, partial(self._submit_remix, request.path_params["video_id"]))

    async def list_all(self, request: Request) -> Response:
        """A page of videos, newest first unless ``order=asc``."""
        limit, direction, after = _limit(request), _direction(request), request.query_params.get("after")
        return JSONResponse(await self._call(lambda: self._page(after, limit, direction)))

    async def retrieve(self, request: Request) -> Response:
        """One video as it is now."""
        found = await self._call(lambda: self._shown(self._job(request.path_params["video_id"])))
        return JSONResponse(found, headers={"openai-poll-after-ms": POLL_MS})

    async def cancel(self, request: Request) -> Response:
        """Cancel a video that isn't finished; one that is stays as it is."""

        def cancelled() -> dict[str, Any]:
            job = self._job(request.path_params["video_id"])
            self._store.cancel(job.id)
            return self._shown(self._job(job.id))

        return JSONResponse(await self._call(cancelled))

    async def delete(self, request: Request) -> Response:
        """Delete a video; pages can undo it for a day."""

        def deleted() -> dict[str, Any]:
            job = self._job(request.path_params["video_id"])
            self._store.delete(job.id)
            return {"id": job.id, "object": "video.deleted", "deleted": True, "status": "deleted"}

        return JSONResponse(await self._call(deleted))

    async def content(self, request: Request) -> Response:
        """The clip, whole or in parts, or its picture."""
        job = await self._call(lambda: self._job(request.path_params["video_id"]))
        variant = request.query_params.get("variant", "video")
        if variant not in CONTENTS and variant != "0":  # SGLang counts
            raise ApiError(400, "variant must be video or thumbnail.", param="variant", code="invalid_value")
        name, kind = CONTENTS.get(variant, CONTENTS["video"])
        path = self._settings.data / job.folder / name
        if job.status is not Status.DONE:
            said = f"The video isn't finished: it is {job.status}. Download it once its status is completed."
            raise ApiError(404, said, code="not_ready")
        if not await anyio.Path(path).is_file():
            raise ApiError(404, "The video's file is gone from the data folder.", code="gone")
        return FileResponse(path, media_type=kind, filename=f"mova-{job.id[:8]}{path.suffix}", headers=PRIVATE)

    async def later(self, request: Request) -> Response:
        """What OpenAI's client can ask for and the studio can't do."""
        name = request.url.path.split("/videos/")[1].split("/")[0]
        raise ApiError(501, LATER[name], code="not_implemented", headers=FINAL)

    async def models(self, _: Request) -> Response:
        """The checkpoints that there are."""
        return JSONResponse({"object": "list", "data": [model(each) for each in await self._call(self._checkpoints)]})

    async def one_model(self, request: Request) -> Response:
        """One checkpoint."""
        wanted = request.path_params["name"]
        found = named(wanted, await self._call(self._checkpoints))
        if found is None:
            raise ApiError(404, f"There is no model {wanted[:300]!r}.", param="model", code="model_not_found")
        return JSONResponse(model(found))

    async def _take(self, request: Request, submit: Callable[[Sent, str | None], dict[str, Any]]) -> Response:
        key = _key(request)
        try:
            with anyio.fail_after(RECEIVE_SECONDS):
                body = await receive(request)
        except TimeoutError:
            raise ApiError(408, f"The request didn't come whole within {RECEIVE_SECONDS:.0f} seconds.") from None

        def take(body: Body) -> dict[str, Any]:
            return submit(unwrap(body), key)

        try:
            return JSONResponse(await anyio.to_thread.run_sync(take, body, limiter=self._decoding))
        except KeyReused:
            said = "This Idempotency-Key came with another request before. Use a new key for a new video."
            raise ApiError(422, said, code="idempotency_key_reused") from None

    async def _call(self, work: Callable[[], Result]) -> Result:
        return await anyio.to_thread.run_sync(work, limiter=self._calls)

    # In threads

    def _submit(self, sent: Sent, key: str | None) -> dict[str, Any]:
        ticket = Ticket(key=key, digest=sent.digest) if key else None
        if ticket and (before := self._store.before(ticket)):
            return self._shown(before)
        brief, notes = brief_of(understand(sent), sent, self._checkpoints(), self._settings)
        first, last = sent.pictures.get("input_reference"), sent.pictures.get("last_frame")
        job = self._store.submit(brief, first_frame=first, last_frame=last, ticket=ticket)
        return self._shown(job, *notes)

    def _submit_remix(self, video_id: str, sent: Sent, key: str | None) -> dict[str, Any]:
        job = self._job(video_id)
        prompt = sent.fields.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > LONGEST_PROMPT:
            said = f"prompt is required: the words of the new video, at most {LONGEST_PROMPT} characters."
            raise ApiError(400, said, param="prompt", code="invalid_value")
        understand(Sent({"prompt": prompt}, {}))
        ticket = Ticket(key=key, digest=f"{video_id} {sent.digest}", remix_of=job.id)
        if before := self._store.before(ticket):
            return self._shown(before)
        return self._shown(self._store.submit(job.brief.model_copy(update={"prompt": prompt}), ticket=ticket))

    def _page(self, after: str | None, limit: int, direction: Direction) -> dict[str, Any]:
        found = self._store.listed(after, limit, direction)
        if found is None:
            raise ApiError(400, f"There is no video {after!r} to go on after.", param="after", code="invalid_value")
        jobs, more = found
        remixes = self._store.remixes([job.id for job in jobs])
        return {
            "object": "list",
            "data": [video(job, remix_of=remixes.get(job.id)) for job in jobs],
            "first_id": jobs[0].id if jobs else None,
            "last_id": jobs[-1].id if jobs else None,
            "has_more": more,
        }

    def _job(self, video_id: str) -> Job:
        job = self._store.get(video_id)
        if job is None or job.deleted_at is not None:
            raise ApiError(404, f"There is no video {video_id[:100]!r}.", code="video_not_found")
        return job

    def _shown(self, job: Job, *notes: str) -> dict[str, Any]:
        position = self._store.ahead(job.id) if job.status is Status.QUEUED else None
        return video(job, remix_of=self._store.remixes([job.id]).get(job.id), position=position, notes=notes)

    def _checkpoints(self) -> list[CheckpointInfo]:
        with self._looking:
            now = time.monotonic()
            if self._known is None or now - self._known[0] > KNOWN_SECONDS:
                self._known = now, find_checkpoints(self._settings.data, self._settings.checkpoint)
            return self._known[1]


PRIVATE = {"Cache-Control": "private, no-cache"}


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        said = "An Idempotency-Key has 1 to 255 characters of ASCII, a UUID for instance."
        raise ApiError(400, said, param="Idempotency-Key", code="invalid_value")
    return key


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(LISTED))
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not 1 <= int(text) <= MOST_LISTED:
        raise ApiError(400, f"limit must be from 1 to {MOST_LISTED}.", param="limit", code="invalid_value")
    return int(text)


def _direction(request: Request) -> Direction:
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "order must be asc or desc.", param="order", code="invalid_value")
    return cast(Direction, order)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"There is nothing at {request.url.path[:200]}; see /docs.", 405: f"Not with {request.method} here."}
    return ApiError(error.status_code, said.get(error.status_code, error.detail), headers=error.headers).response()


def _closed(_: Request, error: Exception) -> Response:
    return ApiError(503, str(error), code="store_unavailable", headers={"Retry-After": "2"}).response()


def _no_picture(_: Request, error: Exception) -> Response:
    return ApiError(400, str(error), param="input_reference", code="invalid_image").response()


def _gone(_: Request, __: Exception) -> Response:
    return ApiError(400, "The request was cut off.").response()  # nobody reads it


def _no_disk(_: Request, error: Exception) -> Response:
    why = getattr(error, "strerror", None) or error
    said = f"The studio's disk can't be used ({why}). Make room, or see that the data folder may be written to."
    return ApiError(503, said, code="disk").response()


def _broken(_: Request, __: Exception) -> Response:
    return ApiError(500, "The studio made a mistake; its log has the details.", code="internal").response()
