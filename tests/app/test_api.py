"""The API over HTTP, against a studio of its own whose worker pretends; and its clients, as they are installed."""

from __future__ import annotations

import base64
import io
import json
import re
import select
import shutil
import socket
import sqlite3
import subprocess
import tracemalloc
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.testclient import TestClient

from app import api, apidocs
from app.apidocs import document
from app.apierrors import ApiError
from app.ask import Ask, unwrap
from app.jobs import Step
from app.settings import load
from app.store import JobStore
from mova.picture import open_picture
from tests.app.conftest import make_brief, picture, wait_for
from tests.pretending import pretending

Fields = dict[str, Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "data"


@pytest.fixture(scope="module")
def store(data: Path) -> JobStore:
    return JobStore(data)


@pytest.fixture(scope="module")
def address(store: JobStore) -> Iterator[str]:
    with pretending(store.data, 0.02) as address:
        yield address


@pytest.fixture
def api_at(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{address}/v1/", timeout=60) as client:
        yield client


@pytest.fixture
def paused(store: JobStore) -> Iterator[None]:
    """Nothing runs meanwhile, and nothing is left waiting."""
    store.pause_after()
    wait_for(lambda: all(job.status != "running" for job in store.queue()))
    yield
    for job in store.queue():
        store.cancel(job.id)
    store.resume()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def completed(client: httpx.Client, video_id: str) -> Fields:
    return wait_for(lambda: (video := client.get(f"videos/{video_id}").json())["status"] == "completed" and video)


def error_of(answer: httpx.Response) -> Fields:
    """The error of an answer, which has the one shape."""
    (name, error), *others = answer.json().items()
    assert (name, others) == ("error", [])
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


def is_valid(answer: object, schema: str) -> bool:
    jsonschema.validate(answer, {"$ref": f"#/components/schemas/{schema}", "components": document()["components"]})
    return True


# One video, from words to file


def test_a_form_with_a_picture_becomes_a_clip(api_at: httpx.Client, data: Path) -> None:
    sent = {"prompt": "A gull lands.", "seconds": "1", "seed": "7", "num_inference_steps": "3"}
    answer = api_at.post("videos", data=sent, files={"input_reference": ("photo.jpg", picture(kind="JPEG"))})
    video = answer.json()
    assert (answer.status_code, video["object"], video["prompt"]) == (200, "video", "A gull lands.")
    assert video["status"] in ("queued", "in_progress")
    assert (video["seed"], video["num_inference_steps"], video["size"]) == (7, 3, "256x144")
    assert open_picture(data / "jobs" / video["id"] / "first_frame.png").size == (40, 30)
    done = completed(api_at, video["id"])
    assert is_valid(done, "Video")
    assert (done["progress"], done["state"], done["error"]) == (100, "done", None)
    assert done["completed_at"] >= done["created_at"]
    whole = api_at.get(f"videos/{video['id']}/content")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.content == (data / "jobs" / video["id"] / "clip.mp4").read_bytes()
    part = api_at.get(f"videos/{video['id']}/content", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    poster = api_at.get(f"videos/{video['id']}/content?variant=thumbnail")
    assert (poster.status_code, poster.headers["content-type"]) == (200, "image/webp")
    assert api_at.get(f"videos/{video['id']}/content?variant=spritesheet").status_code == 400
    assert api_at.head(f"videos/{video['id']}/content").headers["content-length"] == str(len(whole.content))


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(
    "how",
    [
        {"input_reference": data_url(picture(20, 10))},
        {"input_reference": {"image_url": data_url(picture(20, 10))}},
        {"reference_url": data_url(picture(20, 10, kind="JPEG"), "image/jpeg")},
    ],
)
def test_a_picture_comes_as_data_url_too(api_at: httpx.Client, data: Path, how: Fields) -> None:
    video = api_at.post("videos", json={"prompt": "x", **how}).json()
    assert open_picture(data / "jobs" / video["id"] / "first_frame.png").size == (20, 10)


SPEC = {
    "num_frames": 9,
    "fps": 10,
    "seed": 2**63 - 1,
    "num_inference_steps": 4,
    "guidance_scale": 1.5,
    "bridge_guidance_scale": 3.5,
    "video_shift": 4.0,
    "audio_shift": 6.0,
    "negative_prompt": "",
}


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize("as_form", [True, False])
def test_every_field_reaches_the_brief(api_at: httpx.Client, store: JobStore, as_form: bool) -> None:
    asked: Fields = {**SPEC, "prompt": "123", "offload": "layer", "loudness": -14, "first_frame_position": 20}
    asked["preset"] = "light"
    asked |= {"size": "64x48", "model": "OpenMOSS-Team/mova-playground"}
    body: Fields = {"data": {name: str(value) for name, value in asked.items()}} if as_form else {"json": asked}
    if as_form:
        body["files"] = {"last_frame": ("b.png", picture())}
    else:
        asked["last_frame"] = data_url(picture())
    video = api_at.post("videos", **body).json()
    job = store.get(video["id"])
    assert job
    assert {name: getattr(job.brief.spec, name) for name in SPEC} == SPEC
    assert (job.brief.spec.width, job.brief.spec.height) == (64, 48)
    assert (job.brief.prompt, job.brief.offload, job.brief.loudness) == ("123", "layer", -14)
    assert video["preset"] == job.brief.preset == "light"
    assert (job.brief.first_frame_position, job.brief.random_seed) == ((0.2, 0.2), False)
    assert job.brief.last_frame == f"jobs/{job.id}/last_frame.png"
    assert video["notes"] == []


@pytest.mark.usefixtures("paused")
def test_what_is_left_open_is_as_the_form_starts(api_at: httpx.Client, store: JobStore) -> None:
    videos = [api_at.post("videos", json={"prompt": "x"}).json() for _ in range(2)]
    assert [(video["num_frames"], video["num_inference_steps"], video["fps"]) for video in videos] == [(25, 4, 12)] * 2
    assert videos[0]["seed"] != videos[1]["seed"], "an open seed is drawn"
    job = store.get(videos[0]["id"])
    assert job
    assert (job.brief.random_seed, job.brief.offload, job.brief.preset) == (True, "auto", "exact")
    assert [video["queue_position"] for video in videos] == [0, 1]


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize(
    ("asked", "made", "told"),
    [
        ("1280x720", "1280x720", False),
        ("144x256", "144x256", False),
        ("640x360", "256x144", True),
        ("360x640", "144x256", True),
        ("99999x16", "256x144", True),
    ],
)
def test_the_answer_says_which_size_is_made(api_at: httpx.Client, asked: str, made: str, told: bool) -> None:
    video = api_at.post("videos", json={"prompt": "x", "size": asked}).json()
    assert video["size"] == made
    assert any(asked in note for note in video["notes"]) is told


@pytest.mark.usefixtures("paused")
def test_what_means_nothing_here_is_said(api_at: httpx.Client) -> None:
    video = api_at.post("videos", json={"prompt": "x", "enable_teacache": True, "effects": "Thunder."}).json()
    assert any("enable_teacache" in note for note in video["notes"])
    assert any("effects" in note for note in video["notes"])


# Full Workflow


def test_full_workflow_can_be_asked_for(api_at: httpx.Client, store: JobStore) -> None:
    lines = [{"speaker": "the boy", "words": "Again!"}]
    sent = {"prompt": "A red ball bounces.", "workflow": "full", "dialogue": json.dumps(lines), "effects": "Thuds."}
    sent |= {"models[video_prompt]": "builtin", "review[]": "image_prompt", "no_music": "true"}
    video = api_at.post("videos", data=sent).json()
    assert video["workflow"] == "full"
    job = store.get(video["id"])
    assert job
    assert job.brief.full
    assert job.brief.full.sound.dialogue[0].words == "Again!"
    assert (job.brief.full.sound.effects, job.brief.full.sound.no_music) == ("Thuds.", True)
    assert job.brief.full.review == {Step.IMAGE_PROMPT}
    waiting = wait_for(lambda: (now := api_at.get(f"videos/{video['id']}").json())["state"] == "review" and now)
    assert waiting["status"] == "in_progress", "it waits for a person, and OpenAI has no word for that"
    store.go_on(video["id"])
    done = completed(api_at, video["id"])
    assert done["prompt"] != "A red ball bounces.", "the prompt that was written of the idea"


def test_a_model_that_cannot_be_used_is_said_before(api_at: httpx.Client) -> None:
    answer = api_at.post("videos", json={"prompt": "x", "workflow": "full", "models": {"video_prompt": "gemini:g"}})
    assert answer.status_code == 400
    assert "STUDIO_PROVIDERS__GEMINI__API_KEY" in error_of(answer)["message"]


# Lists, cancelling, deleting


@pytest.mark.usefixtures("paused")
def test_lists_come_page_by_page(api_at: httpx.Client, store: JobStore) -> None:
    for job in store.history(500):
        store.delete(job.id)
    ids = [api_at.post("videos", json={"prompt": f"Number {number}."}).json()["id"] for number in range(5)]
    ids.append(store.submit(make_brief("Made on a page.")).id)
    first = api_at.get("videos?limit=4").json()
    assert is_valid(first, "Videos")
    assert [video["id"] for video in first["data"]] == ids[:1:-1]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[5], ids[2], True)
    second = api_at.get(f"videos?limit=4&after={first['last_id']}").json()
    assert ([video["id"] for video in second["data"]], second["has_more"]) == (ids[1::-1], False)
    store.delete(ids[1])
    upwards = api_at.get(f"videos?order=asc&limit=2&after={ids[1]}").json()
    assert [video["id"] for video in upwards["data"]] == ids[2:4], "also after one that is deleted"
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nobody"):
        answer = api_at.get(f"videos?{query}")
        assert (answer.status_code, error_of(answer)["param"]) == (400, query.split("=")[0])


def test_a_video_is_cancelled_waiting_or_running(api_at: httpx.Client) -> None:
    running, waiting = (
        api_at.post("videos", json={"prompt": "x", "num_inference_steps": 1000}).json()["id"] for _ in range(2)
    )
    wait_for(lambda: api_at.get(f"videos/{running}").json()["phase"] == "denoising")
    now = api_at.post(f"videos/{waiting}/cancel").json()
    assert (now["status"], now["state"], now["error"]["code"]) == ("failed", "cancelled", "cancelled")
    assert api_at.post(f"videos/{running}/cancel").json()["state"] in ("cancelling", "cancelled")
    wait_for(lambda: api_at.get(f"videos/{running}").json()["state"] == "cancelled")
    answer = api_at.get(f"videos/{running}/content")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_ready")


def test_a_failure_is_told_with_its_remedy(api_at: httpx.Client) -> None:
    video = api_at.post("videos", json={"prompt": "fail now"}).json()
    failed = wait_for(lambda: (now := api_at.get(f"videos/{video['id']}").json())["status"] == "failed" and now)
    assert failed["error"]["code"] == "unknown"
    assert len(failed["error"]["message"]) > 20
    assert "Traceback" not in json.dumps(failed)


@pytest.mark.usefixtures("paused")
def test_a_deleted_video_is_gone(api_at: httpx.Client, store: JobStore) -> None:
    video_id = api_at.post("videos", json={"prompt": "x"}).json()["id"]
    deleted = api_at.delete(f"videos/{video_id}").json()
    assert (deleted["id"], deleted["deleted"]) == (video_id, True)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("POST", "/cancel"), ("POST", "/remix")):
        answer = api_at.request(method, f"videos/{video_id}{path}", json={"prompt": "y"} if path == "/remix" else None)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "video_not_found")
    store.restore(video_id)
    assert api_at.get(f"videos/{video_id}").status_code == 200


@pytest.mark.usefixtures("paused")
def test_a_remix_is_another_with_these_words(api_at: httpx.Client, store: JobStore) -> None:
    sent = {"prompt": "One.", "seed": "5", "num_frames": "9"}
    first = api_at.post("videos", data=sent, files={"input_reference": ("a.png", picture())}).json()
    again = api_at.post(f"videos/{first['id']}/remix", json={"prompt": "Two."}).json()
    assert (again["prompt"], again["remixed_from_video_id"]) == ("Two.", first["id"])
    assert (again["seed"], again["num_frames"]) == (5, 9)
    job = store.get(again["id"])
    assert job
    assert job.brief.first_frame == f"jobs/{job.id}/first_frame.png"
    assert api_at.get(f"videos/{again['id']}").json()["remixed_from_video_id"] == first["id"]
    assert api_at.get("videos").json()["data"][0]["remixed_from_video_id"] == first["id"]
    for wrong in ({}, {"prompt": " "}, {"prompt": 5}, {"prompt": "\ud800"}):
        answer = api_at.post(f"videos/{first['id']}/remix", content=json.dumps(wrong), headers=JSON)
        assert (answer.status_code, error_of(answer)["param"]) == (400, "prompt")


# What is wrong, and how that is said

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("asked", "param", "part"),
    [
        ({}, "prompt", "prompt is required"),
        ({"prompt": "  "}, "prompt", "prompt is required"),
        ({"prompt": 5}, "prompt", "valid string"),
        ({"prompt": "x" * 32_001}, "prompt", "32000"),
        ({"prompt": "\ud800"}, "prompt", "Unicode"),
        ({"num_frames": 10}, "num_frames", "nearest valid: 9 and 13"),
        ({"num_frames": "many"}, "num_frames", "whole number of frames"),
        ({"num_frames": True}, "num_frames", "whole number of frames"),
        ({"num_frames": 10**400}, "num_frames", "whole number of frames"),
        ({"fps": 0}, "fps", "nearest valid: 1"),
        ({"seed": -1}, "seed", "nearest valid: 0"),
        ({"seed": 2**70}, "seed", "outside 0 to"),
        ({"steps": 0}, "num_inference_steps", "outside 1 to 1000"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "finite"),
        ({"guidance_scale": -1}, "guidance_scale", "negative"),
        ({"video_shift": 0}, "video_shift", "trained with 5"),
        ({"seconds": 0}, "seconds", "greater than 0"),
        ({"seconds": "soon"}, "seconds", "valid number"),
        ({"seconds": 4000, "fps": 24}, None, "above 4001"),
        ({"size": "large"}, "size", "such as 640x352"),
        ({"size": "0x0"}, "size", "no pixels"),
        ({"model": "another"}, "model", "MOVA-playground"),
        ({"engine": "sglang"}, "engine", "STUDIO_SGLANG"),
        ({"engine": "sglang:big"}, "engine", "STUDIO_SGLANG"),
        ({"engine": "cloud"}, "engine", "sglang:name"),
        ({"workflow": "half"}, "workflow", "'full' or 'simple'"),
        ({"loudness": 3}, "loudness", "less than or equal to 0"),
        ({"dialogue": "boy: hello"}, "dialogue", "list"),
        ({"workflow": "full", "dialogue": [{"words": ""}, {"speaker": "A", "words": ""}]}, None, "words"),
        ({"input_reference": "https://example.com/a.png"}, "input_reference", "data URL"),
        ({"input_reference": {"file_id": "file-1"}}, "input_reference", "data URL"),
        ({"input_reference": "data:image/png;base64,@@"}, "input_reference", "base64"),
        ({"input_reference": data_url(b"no picture")}, "input_reference", "no picture"),
        ({"input_reference": data_url(picture()[:60])}, "input_reference", "picture"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_one_sentence_and_makes_no_job(
    api_at: httpx.Client, store: JobStore, asked: Fields, param: str | None, part: str
) -> None:
    before = len(store.history(500))
    answer = api_at.post("videos", content=json.dumps({"prompt": "x", **asked} if asked else {}), headers=JSON)
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert part in error["message"]
    assert len(store.history(500)) == before


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"9" * 5000, "application/json", 400),
        (b"prompt=x&seed=-1", "application/x-www-form-urlencoded", 400),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=y", 400),
        (b'--y\r\nContent-Disposition: form-data; name="prompt', "multipart/form-data; boundary=y", 400),
        (b"prompt=x", "text/plain", 415),
        (b"", "", 415),
    ],
)
def test_a_body_that_is_none_is_said(api_at: httpx.Client, body: bytes, kind: str, status: int) -> None:
    answer = api_at.post("videos", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status
    error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "videos/nobody", 404),
        ("GET", "nothing", 404),
        ("GET", "", 404),
        ("PUT", "videos", 405),
        ("POST", "models", 405),
        ("GET", "models/nobody", 404),
        ("POST", "videos/edits", 501),
        ("POST", "videos/extensions", 501),
        ("POST", "videos/characters", 501),
        ("GET", "videos/characters/c1", 501),
    ],
)
def test_every_error_has_the_one_shape(api_at: httpx.Client, method: str, path: str, status: int) -> None:
    answer = api_at.request(method, path)
    assert answer.status_code == status
    error_of(answer)


def test_models_are_the_checkpoints(api_at: httpx.Client) -> None:
    (model,) = api_at.get("models").json()["data"]
    assert (model["id"], model["object"]) == ("MOVA-playground", "model")
    assert model["sizes"] == ["256x144", "144x256"]
    assert api_at.get("models/MOVA-playground").json() == model


# Bodies that are too large


def post_head(address: str, *lines: str) -> socket.socket:
    host, port = address.split("/")[2].split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = "\r\n".join(("POST /v1/videos HTTP/1.1", f"Host: {host}:{port}", *lines, "", ""))
    connection.sendall(head.encode())
    return connection


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_body_of_71_megabytes_is_refused_before_it_is_sent(address: str, kind: str) -> None:
    with post_head(address, f"Content-Type: {kind}", f"Content-Length: {71 << 20}") as connection:
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_a_body_that_does_not_say_its_length_is_cut_off(address: str) -> None:
    with post_head(address, "Content-Type: application/json", "Transfer-Encoding: chunked") as connection:
        piece = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
        sent = 0
        while sent < 200 and not select.select([connection], [], [], 0)[0]:
            connection.sendall(piece)
            sent += 1
        assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]
    assert 70 <= sent < 120


def test_a_picture_of_51_megabytes_is_refused(api_at: httpx.Client) -> None:
    answer = api_at.post("videos", data={"prompt": "x"}, files={"input_reference": ("a.png", bytes(51 << 20))})
    assert (answer.status_code, error_of(answer)["param"]) == (413, "input_reference")
    answer = api_at.post("videos", data={"prompt": "x", "music": "y" * (9 << 20)})
    assert answer.status_code == 400, "a text field of a form has its limit too"


INTRICATE = [b"[" + b"{}," * 200_001 + b"{}]", b'{"":' * 200_001, b"[" * 200_001, b"[[],[" + b"0," * 200_001 + b"0]]"]


@pytest.mark.parametrize("value", INTRICATE)
def test_json_of_too_many_parts_is_refused_unread(api_at: httpx.Client, store: JobStore, value: bytes) -> None:
    """66 MB of ``{},`` take gigabytes as objects; what is broken at its end shows that nothing read so far."""
    before = len(store.history(500))
    for end in (b"}", b""):
        answer = api_at.post("videos", content=b'{"prompt":"x","z":' + value + end, headers=JSON)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (400, "invalid_json")
        assert "200000" in error["message"]
    answer = api_at.post("videos", data={"prompt": "x", "models": value.decode()})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "models")
    assert "200000" in error_of(answer)["message"]
    assert len(store.history(500)) == before


def test_four_bodies_of_66_megabytes_hold_up_nobody_and_take_no_memory() -> None:
    body = b'{"prompt":"x","z":[' + b"{}," * (22 << 20) + b"{}]}"
    tracemalloc.start()
    try:
        for _ in range(4):
            with pytest.raises(ApiError):
                unwrap(UploadFile(io.BytesIO(body)))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_of_thousands_of_wrong_things_few_are_told(api_at: httpx.Client) -> None:
    answer = api_at.post("videos", json={"prompt": "x", "review": [0] * 190_000})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "review")
    assert len(answer.content) < 10_000


def test_a_picture_of_49_megabytes_is_few_parts() -> None:
    content = bytes(range(256)) * (49 << 12)
    body = json.dumps({"prompt": "x", "input_reference": data_url(content)}).encode()
    assert unwrap(UploadFile(io.BytesIO(body))).pictures == {"input_reference": content}


# Sent twice


@pytest.mark.usefixtures("paused")
def test_the_same_key_and_body_are_the_same_video(api_at: httpx.Client, store: JobStore) -> None:
    sent, key = {"prompt": "Only once."}, {"Idempotency-Key": "first"}
    files = {"input_reference": ("a.png", picture())}
    before = len(store.queue())
    first = api_at.post("videos", data=sent, files=files, headers=key).json()
    again = api_at.post("videos", data=sent, files=files, headers=key).json()  # its boundary is another
    assert again["id"] == first["id"]
    assert len(store.queue()) == before + 1
    for other in (
        {"data": {"prompt": "Another."}},
        {"data": sent, "files": {"input_reference": ("a.png", picture(9))}},
    ):
        answer = api_at.post("videos", **other, headers=key)
        assert (answer.status_code, error_of(answer)["code"]) == (422, "idempotency_key_reused")
    assert api_at.post(f"videos/{first['id']}/remix", json=sent, headers=key).status_code == 422
    remixes = {api_at.post(f"videos/{first['id']}/remix", json=sent, headers={"Idempotency-Key": "r"}).json()["id"]}
    remixes.add(api_at.post(f"videos/{first['id']}/remix", json=sent, headers={"Idempotency-Key": "r"}).json()["id"])
    assert len(remixes) == 1


@pytest.mark.usefixtures("paused")
def test_sixteen_at_once_with_one_key_make_one_video(api_at: httpx.Client, store: JobStore) -> None:
    def send(_: int) -> str:
        body = {"prompt": "At once.", "input_reference": data_url(picture())}
        return str(httpx.post(f"{api_at.base_url}videos", json=body, headers={"Idempotency-Key": "k"}).json()["id"])

    before = {path.name for path in (store.data / "jobs").iterdir()}
    with ThreadPoolExecutor(16) as threads:
        ids = set(threads.map(send, range(16)))
    assert len(ids) == 1
    assert {path.name for path in (store.data / "jobs").iterdir()} - before == ids, "and leave no folder of another"


@pytest.mark.usefixtures("paused")
def test_a_key_is_known_as_long_as_its_job(api_at: httpx.Client, store: JobStore) -> None:
    first = api_at.post("videos", json={"prompt": "x"}, headers={"Idempotency-Key": "long"}).json()["id"]
    store.purge(0)
    assert api_at.post("videos", json={"prompt": "x"}, headers={"Idempotency-Key": "long"}).json()["id"] == first
    store.delete(first)
    store.purge(0)
    assert api_at.post("videos", json={"prompt": "y"}, headers={"Idempotency-Key": "long"}).json()["id"] != first
    answer = api_at.post("videos", json={"prompt": "x"}, headers={"Idempotency-Key": "é".encode()})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "Idempotency-Key")


@pytest.mark.usefixtures("paused")
@pytest.mark.parametrize("prompt", ["Again.", "Another."])
def test_a_key_of_a_deleted_video_is_free(api_at: httpx.Client, store: JobStore, prompt: str) -> None:
    key = {"Idempotency-Key": f"deleted before {prompt}"}
    origin = api_at.post("videos", json={"prompt": "Origin."}).json()["id"]
    first = api_at.post(f"videos/{origin}/remix", json={"prompt": "Again."}, headers=key).json()["id"]
    assert api_at.delete(f"videos/{first}").status_code == 200
    second = api_at.post("videos", json={"prompt": prompt}, headers=key)
    assert second.status_code == 200
    assert api_at.get(f"videos/{second.json()['id']}").status_code == 200, "what is answered is there"
    assert api_at.post("videos", json={"prompt": prompt}, headers=key).json()["id"] == second.json()["id"]
    store.restore(first)
    assert api_at.get(f"videos/{first}").json()["remixed_from_video_id"] == origin


@pytest.mark.usefixtures("paused")
def test_the_same_order_after_a_delete_is_queued_anew(api_at: httpx.Client, store: JobStore) -> None:
    key = {"Idempotency-Key": "deleted and undone"}
    first = api_at.post("videos", json={"prompt": "x"}, headers=key).json()["id"]
    store.delete(first)
    store.restore(first)
    assert api_at.post("videos", json={"prompt": "x"}, headers=key).json()["id"] == first, "an undone delete was none"
    api_at.delete(f"videos/{first}")
    second = api_at.post("videos", json={"prompt": "x"}, headers=key).json()
    assert second["id"] != first
    assert api_at.get(f"videos/{second['id']}").status_code == 200


@pytest.mark.usefixtures("paused")
def test_what_is_not_known_here_does_not_make_another_order(api_at: httpx.Client) -> None:
    key = {"Idempotency-Key": "unknown fields"}
    ids = {api_at.post("videos", json={"prompt": "x", "trace": each}, headers=key).json()["id"] for each in (1, [2])}
    assert len(ids) == 1


# Clients as they are


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    """The official one; it is told to believe no answer that isn't as its types say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", _strict_response_validation=True) as client:
            yield client


def test_openais_client_makes_waits_downloads_and_deletes(client: openai.OpenAI, data: Path, tmp_path: Path) -> None:
    extra = {"num_frames": 5, "fps": 10, "num_inference_steps": 2, "seed": 3}
    video = client.videos.create_and_poll(
        model="sora-2", prompt="A gull.", size="1280x720", seconds="4", poll_interval_ms=50, extra_body=extra
    )
    assert (video.status, video.progress, video.size, video.error) == ("completed", 100, "1280x720", None)
    client.videos.download_content(video.id).write_to_file(tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == (data / "jobs" / video.id / "clip.mp4").read_bytes()
    assert client.videos.download_content(video.id, variant="thumbnail").read()[:4] == b"RIFF"
    assert client.videos.retrieve(video.id).model == "MOVA-playground"
    again = client.videos.remix(video.id, prompt="Two gulls.")
    assert (again.remixed_from_video_id, again.prompt) == (video.id, "Two gulls.")
    assert client.videos.delete(again.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(again.id)
    assert client.models.retrieve("MOVA-playground").id == "MOVA-playground"
    assert [model.id for model in client.models.list()] == ["MOVA-playground"]


@pytest.mark.usefixtures("paused")
def test_openais_client_sends_a_picture_and_lists(client: openai.OpenAI, data: Path, store: JobStore) -> None:
    for job in store.history(500):
        store.delete(job.id)
    made = [client.videos.create(prompt="x", input_reference=("a.png", picture()), size="720x1280").id]
    for how in (data_url(picture()), {"image_url": data_url(picture())}):
        made.append(client.videos.create(prompt="x", size="1280x720", extra_body={"input_reference": how}).id)
    for video_id in made:
        assert open_picture(data / "jobs" / video_id / "first_frame.png").size == (40, 30)
    assert [video.id for video in client.videos.list(limit=2)] == made[::-1], "it turns the pages by itself"


def test_openais_client_is_told_what_is_not_made_yet(client: openai.OpenAI) -> None:
    calls = (
        lambda: client.videos.edit(prompt="x", video=("a.mp4", b"x")),
        lambda: client.videos.extend(prompt="x", seconds="4", video=("a.mp4", b"x")),
        lambda: client.videos.create_character(name="x", video=("a.mp4", b"x")),
        lambda: client.videos.get_character("c"),
    )
    for call in calls:
        with pytest.raises(openai.APIStatusError) as caught:
            call()
        assert caught.value.status_code == 501
        assert caught.value.code == "not_implemented"
        assert "not made here yet" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="nearest valid"):
        client.videos.create(prompt="x", extra_body={"num_frames": 10})


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_as_sglangs_guide_has_it(address: str, tmp_path: Path) -> None:
    """Unchanged but for the address: what SGLang's guide sends, asks and downloads."""

    def curl(*arguments: str) -> Fields:
        said = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True, cwd=tmp_path)
        found: Fields = json.loads(said.stdout) if said.stdout else {}
        return found

    (tmp_path / "image.png").write_bytes(picture())
    fields = ("prompt=A gull says hello.", "input_reference=@image.png", "size=640x360", "num_frames=97", "fps=24")
    fields += ("seed=42", "guidance_scale=5.0", "num_inference_steps=2", "negative_prompt=", "enable_teacache=true")
    form = [part for field in fields for part in ("-F", field)]
    job = curl("-X", "POST", f"{address}/v1/videos", *form)
    assert (job["status"], job["object"], job["error"]) == ("queued", "video", None)
    assert job["seconds"] == "4", "a rounded text, as SGLang's"
    states = []

    def done() -> Fields | None:
        now = curl(f"{address}/v1/videos/{job['id']}")
        states.append(now["status"])
        return now if now["status"] == "completed" else None

    assert wait_for(done)["progress"] == 100
    assert set(states) <= {"queued", "in_progress", "completed"}
    curl("-o", "clip.mp4", "-L", f"{address}/v1/videos/{job['id']}/content")
    assert (tmp_path / "clip.mp4").read_bytes()[4:8] == b"ftyp"
    failing = curl(f"{address}/v1/videos", "-F", "prompt=fail soon", "-F", "input_reference=@image.png")
    failed = wait_for(lambda: (now := curl(f"{address}/v1/videos/{failing['id']}"))["status"] == "failed" and now)
    assert isinstance(failed["error"]["message"], str), "an object, as SGLang's"


# Beside the pages


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_another_sites_page_makes_and_deletes_nothing(
    address: str, store: JobStore, api_at: httpx.Client, headers: dict[str, str]
) -> None:
    job = store.submit(make_brief("Mine."))
    before = len(store.history(500))
    assert api_at.post("videos", data={"prompt": "x"}, headers=headers).status_code == 403
    assert api_at.delete(f"videos/{job.id}", headers=headers).status_code == 403
    assert len(store.history(500)) == before
    own = {"Sec-Fetch-Site": "same-origin", "Origin": address}
    assert api_at.delete(f"videos/{job.id}", headers=own).status_code == 200


def test_nothing_of_streamlits_is_shadowed(address: str) -> None:
    assert "<html" in httpx.get(address).text
    assert "<html" in httpx.get(f"{address}/queue").text
    assert httpx.get(f"{address}/_stcore/health").text == "ok"
    assert "allowedOrigins" in httpx.get(f"{address}/_stcore/host-config").json()
    script = re.search(r'src="\./(static/js/[^"]+)"', httpx.get(address).text)
    assert script
    assert "javascript" in httpx.get(f"{address}/{script[1]}").headers["content-type"]
    for path in ("media/x.mp4", "component/x/y", "_stcore/upload_file/a/b"):
        assert "error" not in httpx.get(f"{address}/{path}").text[:20]


# What the API says of itself


def test_the_description_is_whole(address: str) -> None:
    described = httpx.get(f"{address}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    text = json.dumps(described)
    for name in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert name in described["components"]["schemas"]
    assert set(Ask.model_fields) <= set(described["components"]["schemas"]["Ask"]["properties"])
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, entry in described["paths"].items():
        for method in set(entry) - {"parameters"}:
            answer = httpx.request(method, address + path.format(video_id="x"))
            assert answer.status_code != 405, "every address that is described is there"
            assert str(answer.status_code) in entry[method]["responses"], (path, answer.status_code)


def test_the_page_loads_nothing_from_elsewhere(address: str) -> None:
    page = httpx.get(f"{address}/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", page.text)
    assert set(re.findall(r'(?:src|href|action)="([^"]*)"', page.text)) == {"/openapi.json"}
    for name in (*Ask.model_fields, "input_reference", "last_frame"):
        assert f"<code>{name}</code>" in page.text


# Whatever is sent


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API without a process around it, for many requests; an exception is an answer of 500."""
    chosen = load(data=tmp_path_factory.mktemp("inside"))
    app = Starlette(routes=[api.routes(chosen), *apidocs.routes()])
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


WHATEVER = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["0", "-1", "1e999", "nan", "640x352", "9" * 40, "٣", "1_0", "\ud800", "\x00", "data:;base64,"])
    | st.integers(min_value=10**30, max_value=10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(min_size=1, max_size=50),
    "seconds": st.sampled_from([1, "2", 0.1, 4000, "4"]),
    "num_frames": st.sampled_from([1, 5, 6, "9", 4001]),
    "fps": st.sampled_from([1, 24, "12.5", 240, 241]),
    "size": st.sampled_from(["256x144", "1x1", "0x5", "144X256", "99999x99999"]),
    "workflow": st.sampled_from(["full", "simple"]),
    "models": st.dictionaries(st.sampled_from([*Step]), st.sampled_from(["builtin", "gemini:x", "", ":", "x:y:z"])),
    "review": st.lists(st.sampled_from([*Step])),
    "input_reference": st.sampled_from(
        [data_url(picture(8, 8)), data_url(b""), {"image_url": data_url(picture(8, 8))}]
    ),
}
NAMES = [*Ask.model_fields, "input_reference", "last_frame", "steps", "reference_url", "width", "height", "unknown"]
ASKS = st.fixed_dictionaries(
    {}, optional={name: (PLAUSIBLE[name] | WHATEVER if name in PLAUSIBLE else WHATEVER) for name in NAMES}
)
PATIENT = settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))


def is_as_described(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert is_valid(answer.json(), "Video")
    else:
        assert is_valid(answer.json(), "Error")
        assert answer.status_code in (400, 413, 422)


@PATIENT
@given(ASKS)
def test_whatever_json_is_sent_no_answer_is_500(inside: TestClient, ask: Fields) -> None:
    is_as_described(inside.post("/v1/videos", content=json.dumps(ask), headers=JSON))


@PATIENT
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), st.text(max_size=20), max_size=8), st.booleans())
def test_whatever_form_is_sent_no_answer_is_500(inside: TestClient, ask: dict[str, str], picture_too: bool) -> None:
    writable = {name.encode(errors="replace"): text.encode(errors="replace") for name, text in ask.items()}
    lines = [b'--y\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % each for each in writable.items()]
    if picture_too:
        head = b'--y\r\nContent-Disposition: form-data; name="input_reference"; filename="a"\r\n\r\n%s\r\n'
        lines.append(head % picture(8, 8))
    body = b"".join([*lines, b"--y--\r\n"])
    is_as_described(
        inside.post("/v1/videos", content=body, headers={"Content-Type": "multipart/form-data; boundary=y"})
    )


@PATIENT
@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "multipart/form-data; boundary=y", "application/x-www-form-urlencoded"]),
)
def test_whatever_bytes_are_sent_no_answer_is_500(inside: TestClient, body: bytes, kind: str) -> None:
    is_as_described(inside.post("/v1/videos", content=body, headers={"Content-Type": kind}))


@PATIENT
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]),
    st.sampled_from(["", "/content", "/cancel", "/remix", "/x"]),
    st.text(max_size=20),
    st.dictionaries(st.sampled_from(["after", "limit", "order", "variant"]), st.text(max_size=20)),
)
def test_whatever_is_asked_no_answer_is_500(
    inside: TestClient, method: str, tail: str, name: str, query: dict[str, str]
) -> None:
    for path in (f"/v1/videos/{name}{tail}", "/v1/videos", f"/v1/models/{name}"):
        quoted = "http://testserver" + quote(path.encode(errors="replace"))
        asked = {key: value.encode(errors="replace").decode() for key, value in query.items()}
        answer = inside.request(method, quoted, params=asked)
        assert answer.status_code < 500 or answer.status_code == 501, answer.text


# Rendered elsewhere


@pytest.mark.parametrize(
    ("asked", "model", "size", "told"),
    [
        ({"engine": "sglang"}, "MOVA-360p", "640x352", False),
        (
            {"engine": "sglang:big", "model": "OpenMOSS-Team/MOVA-720p", "size": "720x1280"},
            "MOVA-720p",
            "720x1280",
            False,
        ),
        ({"engine": "sglang:big", "model": "MOVA-360p", "size": "1024x1024"}, "MOVA-360p", "640x352", True),
    ],
)
def test_a_server_makes_its_own_models_and_sizes(
    tmp_path: Path, asked: Fields, model: str, size: str, told: bool
) -> None:
    chosen = load(data=tmp_path, offload="layer", sglang={"big": {"base_url": "http://127.0.0.1:1"}})
    client = TestClient(Starlette(routes=[api.routes(chosen)]))
    video = client.post("/v1/videos", json={"prompt": "x", **asked}).json()
    assert (video["engine"], video["model"], video["size"]) == (asked["engine"], model, size)
    assert bool(video["notes"]) is told
    for wrong in ({"engine": "sglang:small"}, {"last_frame": data_url(picture())}, {"bridge_guidance_scale": 3}):
        answer = client.post("/v1/videos", json={"prompt": "x", **asked, **wrong})
        assert answer.status_code == 400, "what servers can't do is said, not dropped"


def test_a_store_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    client = TestClient(Starlette(routes=[api.routes(load(data=tmp_path))]), raise_server_exceptions=False)
    with sqlite3.connect(tmp_path / "studio.db") as db:
        db.execute("DROP TABLE jobs")
    answer = client.get("/v1/videos")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "store_unavailable")  # type: ignore[arg-type]
    assert "studio.db" in answer.json()["error"]["message"]
