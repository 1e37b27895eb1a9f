"""A server that answers as SGLang's releases do, on the loopback: jobs in turn, a clip, and whatever goes wrong."""

from __future__ import annotations

import email
import email.policy
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from app.settings import Server
from tests.agents.wire import Answer, Request, Wire
from tests.agents.wire import wire as loopback

NOT_FOUND = Answer({"detail": "Video not found"}, 404)
VIDEO = {"content-type": "video/mp4", "etag": '"a"', "accept-ranges": "bytes"}
NO_SUCH_ROUTE = Answer({"detail": "Not Found"}, 404)


def job(status: str = "queued", progress: int = 0, **more: Any) -> Answer:
    """A job object of 0.5.23; what comes with every release and matters to nobody is there too."""
    rest = {"object": "video", "model": "sora-2", "size": "640x352", "seconds": "0", "quality": "standard"}
    return Answer({"id": "the-id", "status": status, "progress": progress, "error": None, "url": None} | rest | more)


def failed(message: str) -> Answer:
    return job("failed", 40, error={"message": f"Model generation failed. Error from scheduler: {message}"})


RUN = (job(), job("in_progress", 0), job("in_progress", 50), job("in_progress", 99), job("completed", 100))
OLD_RUN = (job(), job(), job("completed", 100))  # up to 0.5.22


@dataclass
class Stub:
    """What it answers, and what it was handed in. The last of ``states`` is given again and again."""

    wire: Wire
    clip: bytes
    version: str | None = "0.5.23"
    model: str = "OpenMOSS-Team/MOVA-360p"
    states: list[Answer] = field(default_factory=lambda: list(RUN))
    health: Answer = field(default_factory=lambda: Answer({"status": "ok"}))
    info: Answer | None = None
    submit: Answer = field(default_factory=job)
    content: Answer | None = None
    handed_in: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wire.answer_by = self._answer

    @property
    def server(self) -> Server:
        return Server(base_url=self.wire.address)

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.wire.requests]

    def _answer(self, request: Request) -> Answer:
        match request.method, request.path:
            case _, "/health":
                return self.health
            case _, "/server_info":
                known = {"model_path": self.model, "served_model_name": self.model, "version": self.version}
                return self.info or (Answer(known) if self.version else NO_SUCH_ROUTE)
            case "POST", "/v1/videos":
                self.handed_in.append(parts(request))
                return self.submit
            case "GET", "/v1/videos/the-id":
                return self.states.pop(0) if len(self.states) > 1 else self.states[0]
            case "GET", "/v1/videos/the-id/content":
                return self.content or Answer(self.clip, headers=VIDEO)
        return NO_SUCH_ROUTE


@contextmanager
def stub(clip: bytes = b"", **answers: Any) -> Iterator[Stub]:
    with loopback() as wire:
        yield Stub(wire, clip, **answers)


def parts(request: Request) -> dict[str, Any]:
    """A multipart form: texts by name, and a picture with its file name and type."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    found: dict[str, Any] = {}
    for part in email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts():
        name = re.search(r'name="([^"]*)"', str(part["content-disposition"]))
        body = part.get_payload(decode=True)
        assert name
        assert isinstance(body, bytes)
        if part.get_filename():
            found[name[1]] = (part.get_filename(), part.get_content_type(), Image.open(io.BytesIO(body)))
        else:
            found[name[1]] = body.decode()
    return found
