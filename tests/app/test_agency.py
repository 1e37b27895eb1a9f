"""The models of one run: how many are held at once, what they make room for, and what happens to calls given up."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator

import pytest

from agents.models import Ask, Task
from app.agency import Models, attend
from app.jobs import Brief, Full, Step
from tests.app.conftest import make_brief
from tests.app.script import full_brief


@pytest.fixture
def held(scripted: str) -> Iterator[list[str]]:
    """What the weighty models of this test hold."""
    names: list[str] = importlib.import_module("agents.providers.weighty").held
    names.clear()
    yield names
    assert names == []


def asking(**models: str) -> Brief:
    return make_brief("A ball.", full=Full(models={Step(step): choice for step, choice in models.items()}))


def test_one_model_that_sees_and_writes_is_held_once(held: list[str]) -> None:
    models = Models({}, lambda: None)
    brief = asking(elements="weighty:vl", video_prompt="weighty:vl")
    assert models.writer(brief, Step.ELEMENTS) is models.writer(brief, Step.VIDEO_PROMPT)
    assert held == ["vl vision"]
    models.close()


def test_two_of_them_are_never_held_together(held: list[str]) -> None:
    models = Models({}, lambda: None)
    brief = asking(image_prompt="weighty:llm", first_frame="weighty:painter", elements="weighty:vl")
    models.painter(brief)
    writer = models.writer(brief, Step.IMAGE_PROMPT)
    assert held == ["llm text"]
    assert writer.write(Ask(Task.IMAGE_PROMPT, "")).text, "the one that is asked is there"
    models.painter(brief)
    assert held == ["painter image"]
    models.writer(brief, Step.ELEMENTS)
    assert held == ["vl vision"]
    models.close()


def test_the_engine_makes_room_for_weights_and_for_nothing_else(held: list[str]) -> None:
    freed: list[str] = []
    models = Models({}, lambda: freed.append("freed"))
    models.writer(full_brief("builtin"), Step.VIDEO_PROMPT)
    assert freed == []
    models.writer(asking(video_prompt="weighty:llm"), Step.VIDEO_PROMPT)
    assert freed == ["freed"]
    models.close()


def test_a_call_that_was_given_up_is_waited_for_before_anybody_renders(
    held: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be loading weights: two such at once are out of memory."""
    monkeypatch.setattr("app.agency.LET_GO_SECONDS", 0.0)
    models, loading, ended = Models({}, lambda: None), threading.Event(), threading.Event()
    writer = models.writer(asking(video_prompt="weighty:llm"), Step.VIDEO_PROMPT)

    def load() -> None:
        loading.wait(30)
        ended.set()

    def stop() -> None:
        if threading.active_count() > before:
            raise InterruptedError

    before = threading.active_count()
    with pytest.raises(InterruptedError):
        attend(load, writer, stop)
    assert not ended.is_set()
    threading.Timer(0.2, loading.set).start()
    models.release(full_brief("builtin"))
    assert ended.is_set()


def test_the_error_of_a_call_is_the_callers() -> None:
    def fail() -> None:
        raise ValueError("as it is")

    writer = Models({}, lambda: None).writer(full_brief("builtin"), Step.VIDEO_PROMPT)
    with pytest.raises(ValueError, match="as it is"):
        attend(fail, writer, lambda: None)
