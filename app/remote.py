"""The line to one SGLang server: jobs handed in and looked at, clips fetched; every refusal becomes one sentence."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, SecretStr, ValidationError, field_validator

from agents.addresses import sendable
from app.jobs import Kind

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ASK_SECONDS = 15.0  # for a small answer
SUBMIT_SECONDS = 120.0  # for the answer to a job, whose picture has to get there first
STALL_SECONDS = 60.0  # between two pieces of a clip
FETCH_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between two tries to get a clip whole, the last time that it grew
MOST_BYTES = 4_000_000  # of a small answer
REMOVED = "…"  # what stands where the token stood
MOST_SAID = 300  # characters of what a server said
VIDEO = ("video/", "application/octet-stream", "binary/octet-stream")
GATEWAY = (502, 503, 504)  # what a proxy says while the server behind it is away

# What can go wrong: how the failure is called, and the sentence. Its Chinese is in app/texts/remote.toml.
SENTENCES: dict[str, tuple[Kind, str]] = {
    "none": (Kind.REMOTE_NONE, "No SGLang server is set up. Set STUDIO_SGLANG__NAME__BASE_URL to a server's address."),
    "no_such": (Kind.REMOTE_NONE, "There is no SGLang server {server} in the settings; there are: {names}."),
    "nobody": (Kind.REMOTE_NONE, "None of the SGLang servers can make this clip now. {each}"),
    "unreachable": (Kind.REMOTE_UNREACHABLE, "{server} can't be reached: {why}."),
    "not_sglang": (Kind.REMOTE_UNREACHABLE, "{server} doesn't answer as an SGLang server does: {said}"),
    "denied": (Kind.REMOTE_UNREACHABLE, "{server} doesn't let the studio in ({status}): check its TOKEN."),
    "silent": (Kind.REMOTE_UNREACHABLE, "{server} hasn't answered for {minutes} minutes: {why}."),
    "broken_off": (Kind.REMOTE_UNREACHABLE, "The clip couldn't be fetched from {server} whole: {why}."),
    "too_old": (
        Kind.REMOTE_TOO_OLD,
        "{server} runs an SGLang older than 0.5.10: such a release takes MOVA for a model without a first frame.",
    ),
    "other_model": (Kind.REMOTE_NONE, "{server} serves {model}, which is neither MOVA-360p nor MOVA-720p."),
    "other_size": (Kind.SETTING, "{server} serves {model}, which makes {valid}, and no {size}."),
    "warming_up": (Kind.REMOTE_TIMEOUT, "{server} is still warming up."),
    "unhealthy": (Kind.REMOTE_UNHEALTHY, "{server} can't work any more: {said}"),
    "refused": (Kind.REMOTE_REFUSED, "{server} didn't take the job: {said}"),
    "failed": (Kind.REMOTE_FAILED, "{server} failed to make the clip: {said}"),
    "memory": (Kind.REMOTE_MEMORY, "{server} ran out of memory."),
    "lost": (
        Kind.REMOTE_LOST,
        "{server} doesn't know this job any more: it was started anew, or somebody deleted the job.",
    ),
    "answer_lost": (
        Kind.REMOTE_LOST,
        "{server} was handed the job, but its answer never came ({why}); it may be making the clip all the same.",
    ),
    "late": (Kind.REMOTE_TIMEOUT, "{server} hasn't finished the clip within {minutes} minutes."),
    "stalled": (Kind.REMOTE_TIMEOUT, "{server} has made no progress for {minutes} minutes."),
    "no_clip": (Kind.REMOTE_BAD_CLIP, "{server} says that the clip is done, but doesn't hand it out: {said}"),
    "not_video": (Kind.REMOTE_BAD_CLIP, "{server} sent {type} instead of a clip."),
    "bad_clip": (Kind.REMOTE_BAD_CLIP, "{server} sent a clip that can't be used: {why}"),
    "no_last_frame": (Kind.SETTING, "An SGLang server takes no last frame. Leave it out, or choose this machine."),
    "no_bridge": (
        Kind.SETTING,
        "An SGLang server knows no guidance of the sound by the picture. Set it to 1, or choose this machine.",
    ),
    "no_shift": (Kind.SETTING, "An SGLang server takes no shifts. Leave them empty, or choose this machine."),
    "no_offload": (
        Kind.SETTING,
        "Where an SGLang server keeps its weights is set when it starts. Choose auto, or this machine.",
    ),
    "no_preset": (
        Kind.SETTING,
        "An SGLang server computes as it was started. Choose exact, or this machine.",
    ),
    "no_fps": (Kind.SETTING, "An SGLang server takes whole frames per second only, not {fps}."),
}


class RemoteError(Exception):
    """Something with a server; ``name`` is an entry of ``SENTENCES``, filled with the values."""

    def __init__(self, name: str, **values: Any) -> None:
        self.name = name
        self.kind, template = SENTENCES[name]
        super().__init__(template.format(**values))


class RemoteJob(BaseModel, frozen=True):
    """A job as its server tells of it. What a release doesn't report is None; what isn't known here is left out."""

    id: str
    status: str
    progress: int = 0
    url: str | None = None
    peak_memory_mb: float | None = None
    error: str = ""

    @field_validator("progress", "error", "url", "peak_memory_mb", mode="before")
    @classmethod
    def _lenient(cls, value: Any, info: Any) -> Any:
        match info.field_name:
            case "progress":
                return int(value) if isinstance(value, int | float) and 0 <= value <= 100 else 0
            case "error":
                return _in_short(value) if value else ""
            case "url":
                return value if isinstance(value, str) and re.match("https?://", value) else None
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Answer:
    """Status and body of a small answer; ``body`` is its JSON, or None if it is none."""

    status: int
    body: Any
    said: str


class Line:
    """Calls to one server. ``close`` ends what is under way; nothing is said of the token.

    Raises:
        RemoteError: its address can't be called.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        token: SecretStr | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        ask_seconds: float = ASK_SECONDS,
        submit_seconds: float = SUBMIT_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        waits: Sequence[float] = FETCH_WAITS,
    ) -> None:
        self.name = name
        self._waits, self._closed = waits, threading.Event()
        self._etag = ""
        self._key = key = token.get_secret_value().strip() if token else ""
        self._ask_seconds = ask_seconds
        headers = {"authorization": f"Bearer {key}"} if key and sendable(key) else {}
        self._submit, self._stall = _timeout(submit_seconds), _timeout(stall_seconds)
        try:
            self._client = httpx.Client(
                base_url=base_url.rstrip("/"),
                headers={"user-agent": "mova-studio", "accept-encoding": "identity"} | headers,
                timeout=_timeout(ask_seconds),
                transport=transport,
            )
        except httpx.InvalidURL as error:
            raise RemoteError("unreachable", server=name, why=why(error)) from error

    def close(self) -> None:
        """Let the connections go."""
        self._closed.set()
        self._client.close()

    def ask(self, path: str) -> Answer:
        """GET a small answer, whatever its status. Raises ``RemoteError`` where there is none."""
        try:
            with self._client.stream("GET", path) as response:
                return self._answer(response, self._ask_seconds)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError("unreachable", server=self.name, why=why(error)) from error

    def submit(self, fields: Mapping[str, str], picture: bytes) -> RemoteJob:
        """Hand in a job. ``answer_lost`` says that the server may have taken it: it isn't to be handed in again."""
        files = {"input_reference": ("first_frame.png", picture, "image/png")}
        try:
            response = self._client.post("/v1/videos", data=dict(fields), files=files, timeout=self._submit)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:  # nothing has been sent
            raise RemoteError("unreachable", server=self.name, why=why(error)) from error
        except httpx.HTTPError as error:
            raise RemoteError("answer_lost", server=self.name, why=why(error)) from error
        answer = self._answer(response)
        if answer.status in (401, 403):
            raise RemoteError("denied", server=self.name, status=answer.status)
        if answer.status == 503:
            raise RemoteError("unhealthy", server=self.name, said=answer.said)
        if answer.status in GATEWAY:
            raise RemoteError("answer_lost", server=self.name, why=f"status {answer.status}")
        if answer.status != 200:
            raise RemoteError("refused", server=self.name, said=answer.said)
        return self._job(answer)

    def job(self, job_id: str) -> RemoteJob:
        """How a job stands."""
        answer = self.ask(f"/v1/videos/{job_id}")
        if answer.status == 404:
            raise RemoteError("lost", server=self.name)
        if answer.status in (401, 403):
            raise RemoteError("denied", server=self.name, status=answer.status)
        if answer.status != 200:
            raise RemoteError("unreachable", server=self.name, why=f"status {answer.status}, {answer.said}"[:200])
        return self._job(answer)

    def fetch(self, job: RemoteJob, part: Path) -> None:
        """Write the clip of a finished job to ``part``, whole; where it breaks off it goes on from there, if it can.

        As long as more of it comes than ever before, it is tried again.
        """
        part.unlink(missing_ok=True)
        self._etag, most, waits = "", 0, iter(self._waits)
        while True:
            try:
                self._fetch_on(job, part)
                return
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                log.warning("The clip broke off: %s", why(error))
                have = part.stat().st_size if part.exists() else 0
                if have > most:
                    most, waits = have, iter(self._waits)
                pause = next(waits, None)
                if pause is None or self._closed.wait(pause):
                    raise RemoteError("broken_off", server=self.name, why=why(error)) from error

    def _fetch_on(self, job: RemoteJob, part: Path) -> None:
        """One try; the next one goes on with the same file only, told by its ETag."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"range": f"bytes={have}-", "if-range": self._etag} if have and self._etag else {}
        with self._stream(job, headers) as response:
            if response.status_code == 416 and have:  # what we have isn't the beginning of what is there
                part.unlink()
                raise httpx.ReadError("the clip has changed on the server")
            if response.status_code not in (200, 206):
                answer = self._answer(response, self._ask_seconds)
                if answer.status in GATEWAY:
                    raise httpx.ReadError(f"status {answer.status}")
                raise RemoteError("no_clip", server=self.name, said=answer.said)
            kind = response.headers.get("content-type", "nothing that it names").partition(";")[0]
            if not kind.startswith(VIDEO):
                raise RemoteError("not_video", server=self.name, type=kind[:80])
            goes_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(
                f"bytes {have}-"
            )
            self._etag = response.headers.get("etag", "")
            with part.open("ab" if goes_on else "wb") as file:
                for piece in response.iter_raw():  # as it comes, so that what has come is kept
                    file.write(piece)

    @contextlib.contextmanager
    def _stream(self, job: RemoteJob, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        if job.url is None:
            with self._client.stream(
                "GET", f"/v1/videos/{job.id}/content", headers=dict(headers), timeout=self._stall
            ) as response:
                yield response
        else:  # in cloud storage, which is nobody to be told the token
            with httpx.stream("GET", job.url, headers=dict(headers), timeout=self._stall) as response:
                yield response

    def _answer(self, response: httpx.Response, seconds: float = math.inf) -> Answer:
        """A small answer without the token, read for so long: an HTTP timeout counts from byte to byte."""
        until, body = time.monotonic() + seconds, b""
        for piece in response.iter_bytes():
            body += piece
            if time.monotonic() > until or len(body) > MOST_BYTES:
                raise httpx.ReadTimeout("a small answer that doesn't end")
        text = body.decode("utf-8", "replace")
        text = text.replace(self._key, REMOVED) if self._key else text
        return _understood(response.status_code, response.headers.get("content-type", ""), text)

    def _job(self, answer: Answer) -> RemoteJob:
        try:
            return RemoteJob.model_validate(answer.body)
        except ValidationError as error:
            raise RemoteError("not_sglang", server=self.name, said=answer.said or "an empty answer") from error


def why(error: BaseException) -> str:
    """What kept a call from being answered, in few words."""
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return "nothing took the connection in time"
        case httpx.TimeoutException():
            return "it didn't answer in time"
        case httpx.ConnectError():
            return "nothing listens there"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return "the connection was cut"
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return "its address can't be called"
    return type(error).__name__


def cause(said: str) -> tuple[bool, str]:
    """Of a failed job's words: whether memory ran out, and what is left without the wrapping of the server's own."""
    inner = re.sub(r"^.*?Error from scheduler: ", "", said, flags=re.DOTALL)
    inner = re.sub(r"^Error executing request \S+: ", "", inner)
    return "out of memory" in said.lower(), inner or "it doesn't say why"


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))


def _understood(status: int, kind: str, text: str) -> Answer:
    """The body of any of the five shapes, and what it says."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        said = next((_in_short(body[name]) for name in ("detail", "error", "message") if body.get(name)), "")
    elif "html" in kind:
        said = "a web page"
    else:
        said = _in_short(text)
    return Answer(status, body, said or f"status {status}")


def _in_short(value: Any) -> str:
    """An error's words: a text, an object with a message, or a list of what is wrong with which field."""
    for _ in range(5):  # one in another
        if isinstance(value, dict):
            value = value.get("message") or value.get("msg") or value.get("error") or ""
    if isinstance(value, list):
        found = [_field(item) for item in value[:3]]
        return "; ".join(filter(None, found))[:MOST_SAID]
    lines = [line.strip() for line in str(value).splitlines() if line.strip()]
    if len(lines) > 1 and re.match(r"\d+ validation errors? for ", lines[0]):  # pydantic's: a field, then what it is
        lines = [re.sub(r" \[type=.*", "", f"{lines[1]}: {lines[2]}" if len(lines) > 2 else lines[1])]
    return lines[0][:MOST_SAID] if lines else ""


def _field(item: Any) -> str:
    """One entry of FastAPI's list; ``input``, which repeats what was sent, is left out."""
    if not isinstance(item, dict):
        return str(item)
    place = ".".join(str(part) for part in item.get("loc", ()) if part != "body")
    return f"{place}: {item.get('msg', '')}".strip(": ")
