"""A server that plays all the models of Full Workflow by the tests' own provider, and briefs that ask for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from agents.models import Endpoint
from agents.sound import Line, Sound
from app.jobs import Brief, Full, Step
from tests.agents.wire import Answer, Request, Wire
from tests.agents.wire import wire as loopback
from tests.app.conftest import make_brief, picture

KEY = "sk-planted-0123456789"
IDEA = 'A red ball bounces on a wooden floor. A sign reads "OPEN". A boy says "Again!"'
IMAGE_PROMPT = "Medium shot, eye level. A red ball on a wooden floor under a sign."
SEEN = {"style": "Flat colours.", "camera": "Eye level.", "elements": "A red ball on boards.", "text": ["OPEN"]}
PROMPT = (
    'A red ball lies on a wooden floor under a sign that reads "OPEN"; then it bounces twice, and a boy says "Again!"'
    "\n\nThe audio shows one young voice that says the line with joy, and two soft thuds of rubber on wood. No music."
)
STILL = PROMPT.replace("A red ball lies", "A static red ball lies")


@dataclass
class Script:
    """What the models answer, by path: an answer, or several in turn, of which the last is given again and again."""

    wire: Wire
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.says(image_prompt=IMAGE_PROMPT, elements=json.dumps(SEEN), video_prompt=PROMPT)
        self.answers["paint"] = [Answer(picture(96, 64, "red"))]
        self.wire.answer_by = self._answer

    def says(self, **texts: str | tuple[str, ...]) -> None:
        for path, text in texts.items():
            given = (text,) if isinstance(text, str) else text
            self.answers[path] = [Answer(each.encode()) for each in given]

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for, in turn."""
        return [request.path.strip("/") for request in self.wire.requests]

    def said(self, path: str) -> list[Any]:
        """What was sent to that path."""
        return [request.json() for request in self.wire.requests if request.path.strip("/") == path]

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        return {"scripted": Endpoint(base_url=self.wire.address, api_key=SecretStr(KEY), timeout=20)}

    @property
    def environment(self) -> dict[str, str]:
        """The same for a worker of its own."""
        start = "STUDIO_PROVIDERS__SCRIPTED__"
        return {f"{start}BASE_URL": self.wire.address, f"{start}API_KEY": KEY, f"{start}TIMEOUT": "20"}

    def _answer(self, request: Request) -> Answer:
        answers = self.answers[request.path.strip("/")]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextmanager
def script() -> Iterator[Script]:
    with loopback() as server:
        yield Script(server)


def full_brief(choice: str = "scripted:m1", *, idea: str = IDEA, steps: int = 3, **asked: Any) -> Brief:
    """A brief of Full Workflow in which one choice does everything; ``asked`` goes into ``Full``."""
    sound = asked.pop("sound", Sound(dialogue=(Line(speaker="the boy", words="Again!"),)))
    first_frame = asked.pop("first_frame", None)
    full = Full(models=dict.fromkeys(Step, choice), sound=sound, **asked)
    return make_brief(idea, steps, full=full, first_frame=first_frame)
