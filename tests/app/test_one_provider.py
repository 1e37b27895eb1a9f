"""A studio that was told of one provider only: what that can do is done by it, the rest is said before the run."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.models import Endpoint, split
from agents.troubles import Trouble
from app import worker
from app.agency import offered, problems, usual
from app.jobs import Brief, Full, Job, Status, Step
from app.store import JobStore
from tests.agents.wire import Answer, Request, Wire
from tests.app.conftest import found, picture
from tests.app.fakes import FakeEngine
from tests.app.script import IMAGE_PROMPT, KEY, PROMPT, SEEN, full_brief

WRITING = {Step.IMAGE_PROMPT, Step.VIDEO_PROMPT}
ALONE = [  # an endpoint, where it lies below the server's address, and the steps that it can do
    ("openai", "/v1", set(Step)),
    ("gemini", "", set(Step)),
    ("dashscope", "/api/v1", {Step.FIRST_FRAME}),
    ("qwen", "/v1", {*WRITING, Step.ELEMENTS}),
    ("minimax", "/v1", WRITING),
    ("ollama", "/v1", {*WRITING, Step.ELEMENTS}),
    ("builtin", "", set(Step)),
]


def world(request: Request) -> Answer:
    """Every provider's server at once, each answering in its own documented shape."""
    if request.path == "/picture.png":
        return Answer(picture(96, 64), headers={"content-type": "image/png"})
    body = request.json()
    if request.path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": words(json.dumps(body)), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
        named = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1741569952, "model": body["model"]}
        return Answer({**named, "choices": [choice], "usage": usage})
    if request.path.endswith("/images/generations"):
        return Answer({"created": 1713833628, "data": [{"b64_json": base64.b64encode(picture(96, 64)).decode()}]})
    if ":generateContent" in request.path:
        return Answer({"candidates": [{"content": gemini_content(body), "finishReason": "STOP"}]})
    if request.path.endswith("/multimodal-generation/generation"):
        address = f"http://{request.headers['host']}/picture.png"
        message = {"role": "assistant", "content": [{"image": address}]}
        return Answer({"output": {"choices": [{"finish_reason": "stop", "message": message}]}, "request_id": "1"})
    return Answer({}, 200 if "/api/generate" in request.path else 404)  # Ollama's unloading


def gemini_content(body: dict[str, Any]) -> dict[str, Any]:
    if "IMAGE" in body.get("generationConfig", {}).get("responseModalities", []):
        inline = {"mimeType": "image/png", "data": base64.b64encode(picture(96, 64)).decode()}
        return {"role": "model", "parts": [{"inlineData": inline}]}
    return {"role": "model", "parts": [{"text": words(json.dumps(body))}]}


def words(body: str) -> str:
    """What a model writes, told by its instructions."""
    if "for a writer who can't see it" in body:
        return json.dumps(SEEN)
    return IMAGE_PROMPT if "text-to-image model paints" in body else PROMPT


def told_of(name: str, wire: Wire, below: str) -> dict[str, Endpoint]:
    wire.answer_by = world
    if name == "builtin":
        return {}
    return {name: Endpoint(base_url=wire.address + below, api_key=SecretStr(KEY), timeout=20)}


def asking(models: dict[Step, str]) -> Brief:
    return full_brief().model_copy(update={"full": Full(models=models)})


def run(store: JobStore, brief: Brief, endpoints: dict[str, Endpoint]) -> Job:
    store.submit(brief)
    job = store.claim()
    assert job
    worker.work(store, job, FakeEngine(), threading.Event(), lambda: 0.0, endpoints)
    return found(store, job)


@pytest.mark.parametrize(("name", "below", "able"), ALONE, ids=[name for name, *_ in ALONE])
def test_what_it_can_do_is_done_by_it_and_the_rest_by_the_built_in(
    store: JobStore, wire: Wire, name: str, below: str, able: set[Step]
) -> None:
    endpoints = told_of(name, wire, below)
    models = {step: usual(step, endpoints) for step in Step}
    assert {step for step, choice in models.items() if split(choice)[0] == name} == able
    assert all(split(models[step])[0] == "builtin" for step in set(Step) - able)
    job = run(store, asking(models), endpoints)
    assert job.status is Status.DONE, job.failure
    made = store.versions(job.id)
    assert {step: versions[0].model for step, versions in made.items()} == models
    assert bool(wire.requests) is (name != "builtin")
    assert all(KEY not in request.path for request in wire.requests)
    if name == "openai":
        (seen,) = [request for request in wire.requests if b"image_url" in request.body]
        frame = (store.data / made[Step.FIRST_FRAME][0].pictures[0]).read_bytes()
        assert base64.b64encode(frame) in seen.body, "what was painted is what is looked at, to the byte"


@pytest.mark.parametrize(("name", "below", "able"), ALONE, ids=[name for name, *_ in ALONE])
def test_what_it_cannot_do_is_said_before_anything_is_asked(
    store: JobStore, wire: Wire, name: str, below: str, able: set[Step]
) -> None:
    endpoints = told_of(name, wire, below)
    brief = asking(dict.fromkeys(Step, name))
    wrong = problems(brief, endpoints)
    assert set(wrong) == set(Step) - able
    assert all(error.trouble is Trouble.CANNOT for error in wrong.values())
    if wrong:
        job = run(store, brief, endpoints)
        assert job.failure
        assert job.failure.kind is Trouble.CANNOT
        assert wire.requests == []


def test_a_folder_of_this_machine_is_looked_at_before_the_run(store: JobStore, tmp_path: Path) -> None:
    wrong = problems(asking(dict.fromkeys(Step, f"local:{tmp_path / 'nothing'}")), {})
    assert set(wrong) == set(Step)
    assert all(str(tmp_path / "nothing") in str(error) for error in wrong.values())


def test_every_endpoint_that_can_do_a_step_is_offered_those_that_are_set_up_first(wire: Wire) -> None:
    endpoints = told_of("ollama", wire, "/v1")
    assert split(offered(Step.VIDEO_PROMPT, endpoints)[0])[0] == "ollama"
    assert {split(choice)[0] for choice in offered(Step.FIRST_FRAME, endpoints)} >= {"openai", "gemini", "dashscope"}
