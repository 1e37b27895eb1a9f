"""One real call for each ability of each endpoint that is set up: ``STUDIO_TESTS_LIVE=1 pytest -m live``."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image

from agents import elements, first_frame, rewriter
from agents.models import Ability, connect_painter, connect_writer, problem
from agents.sound import Line, Sound
from app.agency import BUILTIN, offered, told
from app.jobs import Step
from app.settings import load
from tests.app.conftest import picture
from tests.conftest import LIVE

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(LIVE), reason=f"real calls cost money: set {LIVE}=1, and the keys"),
]
ENDPOINTS = load().providers if os.environ.get(LIVE) else {}
IDEA = 'A gull lands on a pier. A fisherman says "早上好".'


def ready(step: Step, ability: Ability) -> list[str]:
    choices = [choice for choice in offered(step, ENDPOINTS) if told(choice, ENDPOINTS)]
    return [each for each in choices if not each.startswith(BUILTIN) and problem(each, ability, ENDPOINTS) is None]


@pytest.mark.parametrize("choice", ready(Step.VIDEO_PROMPT, Ability.TEXT))
def test_it_writes(choice: str) -> None:
    sound = Sound(dialogue=(Line(speaker="the fisherman", language="Chinese", words="早上好"),), no_music=True)
    writer = connect_writer(choice, Ability.TEXT, ENDPOINTS)
    text = rewriter.finish(rewriter.write_video_prompt(writer, IDEA, None, sound).text)
    writer.close()
    assert "早上好" in text


@pytest.mark.parametrize("choice", ready(Step.ELEMENTS, Ability.VISION))
def test_it_sees(choice: str) -> None:
    writer = connect_writer(choice, Ability.VISION, ENDPOINTS)
    seen, _ = elements.describe(writer, picture(640, 352, "red"))
    writer.close()
    assert "red" in seen.as_text().lower()


@pytest.mark.parametrize("choice", ready(Step.FIRST_FRAME, Ability.IMAGE))
def test_it_paints(choice: str) -> None:
    painter = connect_painter(choice, ENDPOINTS)
    painted = first_frame.paint(painter, "A gull on a pier, wide shot, morning light.", 640, 352, 7)
    painter.close()
    with Image.open(io.BytesIO(painted.picture)) as image:
        assert image.width > image.height
