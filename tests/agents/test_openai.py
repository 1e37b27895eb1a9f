"""The provider `openai` on the wire: what the real SDK sends, and what becomes of each answer."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agents import exchange, unload
from agents.models import Ability, Ask, Endpoint, Painter, Task, Writer, connect_painter, connect_writer, problem
from agents.troubles import TRIES, AgentError, Trouble
from tests.agents.wire import Answer, Wire
from tests.agents.wire import wire as loopback

KEY = "sk-planted-0123456789"
ASK = Ask(Task.VIDEO_PROMPT, "Write the prompt.", {"idea": 'a "red" {fox} 🦊'})
JSON_ASK = Ask(Task.ELEMENTS, "Answer in JSON.", images=(b"\xff\xd8 a jpeg",), json=True)


def picture(kind: str = "PNG", size: tuple[int, int] = (32, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind)
    return file.getvalue()


def completion(content: str | None = "A fox runs.", **more: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's reference shows it; ``more``: fields of the choice, or of the message."""
    message = {"role": "assistant", "content": content, "refusal": more.pop("refusal", None), "annotations": []}
    return {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-6-luna-2026-09-22",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"} | more],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
        "service_tier": "default",
    }


def wrong(message: str, code: str | None = None, kind: str = "invalid_request_error", param: str | None = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def endpoint(server: Wire, **more: Any) -> Endpoint:
    return Endpoint(**{"base_url": f"{server.address}/v1", "api_key": KEY, "timeout": 5.0} | more)


@contextmanager
def writer(server: Wire, choice: str = "openai:a-model", **more: Any) -> Iterator[Writer]:
    model = connect_writer(choice, Ability.VISION, {choice.partition(":")[0]: endpoint(server, **more)})
    yield model
    model.close()


@contextmanager
def painter(server: Wire, model: str = "gpt-image-2.5-flare", **more: Any) -> Iterator[Painter]:
    found = connect_painter(f"openai:{model}", {"openai": endpoint(server, **more)})
    yield found
    found.close()


def trouble_of(server: Wire, ask: Ask = ASK, **more: Any) -> AgentError:
    with writer(server, **more) as model, pytest.raises(AgentError) as caught:
        model.write(ask)
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no traceback shows a request
    return caught.value


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.troubles.FIRST_WAIT", 0.001)


# Text and vision


def test_text_is_asked_for_with_nothing_that_a_server_may_refuse(wire: Wire) -> None:
    wire.answers = [Answer(completion())]
    with writer(wire) as model:
        written = model.write(ASK)
    (sent,) = wire.requests
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.json() == {
        "model": "a-model",
        "messages": [
            {"role": "system", "content": "Write the prompt."},
            {"role": "user", "content": '<idea>\na "red" {fox} 🦊\n</idea>'},
        ],
    }
    assert (written.text, written.model) == ("A fox runs.", "gpt-6-luna-2026-09-22")
    assert (written.tokens_in, written.tokens_out) == (19, 10)


def test_a_picture_is_sent_byte_by_byte_as_a_data_url(wire: Wire) -> None:
    wire.answers = [Answer(completion())]
    png, jpeg = picture(), picture("JPEG")
    with writer(wire) as model:
        model.write(Ask(Task.ELEMENTS, "Describe it.", {"note": "look"}, images=(png, jpeg)))
    first, second, text = wire.requests[0].json()["messages"][1]["content"]
    for part, kind, raw in ((first, "image/png", png), (second, "image/jpeg", jpeg)):
        assert part["type"] == "image_url"
        start, _, data = part["image_url"]["url"].partition(",")
        assert start == f"data:{kind};base64"
        assert base64.b64decode(data, validate=True) == raw
    assert text == {"type": "text", "text": "<note>\nlook\n</note>"}


def test_a_picture_alone_needs_no_words(wire: Wire) -> None:
    wire.answers = [Answer(completion("{}"))]
    with writer(wire) as model:
        model.write(JSON_ASK)
    assert [part["type"] for part in wire.requests[0].json()["messages"][1]["content"]] == ["image_url"]


def test_json_mode_is_asked_for(wire: Wire) -> None:
    wire.answers = [Answer(completion('{"style": "photo"}'))]
    with writer(wire) as model:
        assert json.loads(model.write(JSON_ASK).text) == {"style": "photo"}
    assert wire.requests[0].json()["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(wrong("'response_format.type' must be 'json_schema' or 'text'", param="response_format"), 400),
        Answer({"error": "'response_format.type' must be 'json_schema' or 'text'"}, 400),
        Answer({"error": "response_format is not known"}),
        Answer({"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}, 422),
    ],
)
def test_a_server_without_json_mode_is_asked_again_without_it(wire: Wire, refusal: Answer) -> None:
    wire.answers = [refusal, Answer(completion("{}"))]
    with writer(wire) as model:
        assert model.write(JSON_ASK).text == "{}"
    first, second = (sent.json() for sent in wire.requests)
    assert first.pop("response_format")
    assert first == second


def test_what_is_wrong_without_json_mode_too_is_told(wire: Wire) -> None:
    wire.answers = [Answer(wrong("the picture is too large"), 400)]
    error = trouble_of(wire, JSON_ASK)
    assert error.trouble is Trouble.REJECTED
    assert str(error) == "OpenAI didn't take the request: the picture is too large"
    assert len(wire.requests) == 2


def test_another_trouble_in_json_mode_is_not_asked_again(wire: Wire) -> None:
    wire.answers = [Answer(wrong("no"), 401)]
    trouble_of(wire, JSON_ASK)
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nthe user wants\n</think>\n\nA fox.", "A fox."),
        ("\n<think></think>A fox.", "A fox."),
        ("the user wants\n</think>\nA fox.", "A fox."),
        ("A fox <think>not</think> here.", "A fox <think>not</think> here."),
        ('{"text": ["a sign: </think>"]}', '{"text": ["a sign: </think>"]}'),
        ("  A fox.\n", "A fox."),
    ],
)
def test_leading_thoughts_are_left_out(wire: Wire, content: str, text: str) -> None:
    wire.answers = [Answer(completion(content))]
    with writer(wire) as model:
        assert model.write(ASK).text == text


def test_an_answer_cut_off_by_length_is_still_an_answer(wire: Wire) -> None:
    wire.answers = [Answer(completion("A fox ru", finish_reason="length"))]
    with writer(wire) as model:
        assert model.write(ASK).text == "A fox ru"


def test_a_server_may_leave_out_what_is_not_needed(wire: Wire) -> None:
    wire.answers = [Answer({"choices": [{"message": {"content": "ok"}}]})]
    with writer(wire) as model:
        written = model.write(ASK)
    assert (written.text, written.model, written.tokens_in, written.tokens_out) == ("ok", "", None, None)


# Troubles


@pytest.mark.parametrize(
    ("answer", "trouble", "sentence"),
    [
        (
            Answer(wrong(f"Incorrect API key provided: {KEY}.", "invalid_api_key"), 401),
            Trouble.BAD_KEY,
            "OpenAI doesn't accept the key. Check STUDIO_PROVIDERS__OPENAI__API_KEY, then start the studio again.",
        ),
        (Answer(wrong(f"{KEY} may not"), 403), Trouble.BAD_KEY, "doesn't accept the key"),
        (
            Answer(wrong(f"Project of {KEY[:9]} has no access to model a-model", "model_not_found"), 403),
            Trouble.NO_SUCH_MODEL,
            "OpenAI has no model a-model, or not for this: the key may not use it",
        ),
        (
            Answer(
                wrong("The model `a-model` does not exist or you do not have access to it.", "model_not_found"), 404
            ),
            Trouble.NO_SUCH_MODEL,
            "The model `a-model` does not exist",
        ),
        (Answer(wrong("Invalid value: 'a-model'.", "invalid_value", param="model"), 400), Trouble.NO_SUCH_MODEL, "Inv"),
        (
            Answer({"object": "error", "message": "The model `a-model` does not exist.", "code": 404}, 404),
            Trouble.NO_SUCH_MODEL,
            "The model `a-model` does not exist.",
        ),
        (Answer({"detail": "Not Found"}, 404), Trouble.UNREACHABLE, "nothing answers to /v1/chat/completions there"),
        (Answer(b"404 page not found", 404), Trouble.UNREACHABLE, "is its base_url right"),
        (
            Answer(b"<!doctype html><h1>Hello</h1>", 200, {"content-type": "text/html"}),
            Trouble.UNREACHABLE,
            "it answers with something else than JSON: is its base_url right?",
        ),
        (Answer([1, 2]), Trouble.UNREACHABLE, "something else than JSON"),
        (Answer(b'{"choices": [', 200, {"content-type": "application/json"}), Trouble.UNREADABLE, "it is no JSON"),
        (Answer(b"\xff\xfe{", 200, {"content-type": "application/json"}), Trouble.UNREADABLE, "it is no JSON"),
        (Answer({"choices": "a fox"}), Trouble.UNREADABLE, "it isn't what OpenAI's API answers"),
        (
            Answer(wrong("Your request was rejected by the safety system.", "content_policy_violation"), 400),
            Trouble.REFUSED,
            "OpenAI refuses this content: Your request was rejected by the safety system.",
        ),
        (Answer(wrong("may contain inappropriate content.", "data_inspection_failed"), 400), Trouble.REFUSED, "may"),
        (Answer(completion(None, refusal=f"I can't do that, {KEY}.")), Trouble.REFUSED, "I can't do that, …."),
        (Answer(completion("A", finish_reason="content_filter")), Trouble.REFUSED, "its content filter held"),
        (Answer(wrong("messages: too long"), 400), Trouble.REJECTED, "messages: too long"),
        (Answer(wrong(f"what is {KEY}?"), 400), Trouble.REJECTED, "what is …?"),
        (Answer(b"<h1>Bad</h1>", 400), Trouble.REJECTED, "HTTP 400"),
        (Answer(b"", 400), Trouble.REJECTED, "HTTP 400"),
        (Answer({"error": "Unexpected endpoint or method."}), Trouble.REJECTED, "Unexpected endpoint or method."),
        (Answer({"base_resp": {"status_code": 1004, "status_msg": KEY}}), Trouble.BAD_KEY, "doesn't accept the key"),
        (
            Answer({"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
            Trouble.REFUSED,
            "input new_sensitive",
        ),
        (Answer({"base_resp": {"status_code": 1008, "status_msg": "balance"}}), Trouble.RATE_LIMIT, "balance"),
        (Answer(wrong("You exceeded your quota.", "insufficient_quota"), 429), Trouble.RATE_LIMIT, "exceeded"),
        (Answer(wrong("Insufficient Balance"), 402), Trouble.RATE_LIMIT, "Insufficient Balance"),
        (Answer(completion() | {"choices": []}), Trouble.EMPTY_ANSWER, "a-model at OpenAI gave an empty answer."),
        (Answer({}), Trouble.EMPTY_ANSWER, "empty"),
        (Answer(completion(None)), Trouble.EMPTY_ANSWER, "empty"),
        (Answer(completion(" \n")), Trouble.EMPTY_ANSWER, "empty"),
        (Answer(completion("<think>and on", finish_reason="length")), Trouble.EMPTY_ANSWER, "empty"),
        (Answer(completion("fox " * 5001)), Trouble.UNREADABLE, "it is 20003 characters long"),
    ],
    ids=lambda value: value.value if isinstance(value, Trouble) else "",
)
def test_each_answer_that_is_none_has_its_trouble(wire: Wire, answer: Answer, trouble: Trouble, sentence: str) -> None:
    wire.answers = [answer]
    error = trouble_of(wire)
    assert error.trouble is trouble
    assert sentence in str(error)
    assert len(wire.requests) == 1, "another try wouldn't help"


def test_a_redirect_is_not_followed_with_the_key_and_the_words(wire: Wire) -> None:
    with loopback() as other:
        other.answers = [Answer(completion())]
        wire.answers = [Answer(b"", 307, {"location": f"{other.address}/v2/chat?token=abc"})]
        error = trouble_of(wire)
        assert other.requests == []
    assert error.trouble is Trouble.UNREACHABLE
    assert f"it sends on to {other.address}/v2/chat: set that as its base_url" in str(error)


def test_a_rate_limit_is_waited_for_as_long_as_the_server_asks(wire: Wire) -> None:
    busy = Answer(wrong("Rate limit reached", "rate_limit_exceeded"), 429, {"retry-after": "0.2"})
    wire.answers = [busy, Answer(completion())]
    started = time.monotonic()
    with writer(wire) as model:
        assert model.write(ASK).text == "A fox runs."
    assert 0.2 <= time.monotonic() - started < 2
    assert len(wire.requests) == 2


def test_retry_after_may_be_a_time_of_day_or_nonsense(wire: Wire) -> None:
    waits = [Answer(wrong("busy"), 503, {"retry-after": said}) for said in (formatdate(usegmt=True), "soon")]
    wire.answers = [*waits, Answer(completion())]
    with writer(wire) as model:
        assert model.write(ASK).text == "A fox runs."
    assert len(wire.requests) == 3


def test_a_delay_that_is_too_long_is_told_at_once(wire: Wire) -> None:
    wire.answers = [Answer(wrong("Try again in an hour."), 429, {"retry-after": "3600"})]
    error = trouble_of(wire)
    assert (error.trouble, error.wait, len(wire.requests)) == (Trouble.RATE_LIMIT, 3600, 1)


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_a_server_in_trouble_is_asked_three_times(wire: Wire, status: int) -> None:
    wire.answers = [Answer(wrong("The server had an error"), status)]
    error = trouble_of(wire)
    assert error.trouble is Trouble.OVERLOADED
    assert len(wire.requests) == TRIES
    assert str(error) == "OpenAI has trouble of its own: The server had an error"


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://user:hidden@127.0.0.1:{free.getsockname()[1]}/v1?api-key=hidden"
    model = connect_writer("lab:m", Ability.TEXT, {"lab": Endpoint(provider="openai", base_url=address)})
    with pytest.raises(AgentError) as caught:
        model.write(ASK)
    assert caught.value.trouble is Trouble.UNREACHABLE
    assert "lab can't be reached at http://127.0.0.1:" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_server_that_hangs_is_given_up_in_time(wire: Wire) -> None:
    wire.answers = [Answer(delay=None)]
    started = time.monotonic()
    error = trouble_of(wire, timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 1.5
    assert error.trouble is Trouble.TIMEOUT
    assert str(error) == "OpenAI didn't answer within 0.3 seconds."
    assert len(wire.requests) == 1


@contextmanager
def trickle() -> Iterator[str]:
    """A server that sends one blank after the other: no read ever waits long."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
            try:
                for _ in range(60):  # three seconds at most
                    if ended.wait(0.05):
                        break
                    connection.sendall(b" ")
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    ended.set()
    thread.join(2)
    listening.close()


def test_a_server_that_only_trickles_is_given_up_in_time() -> None:
    with trickle() as address:
        model = connect_writer(
            "openai:m", Ability.TEXT, {"openai": Endpoint(base_url=address, api_key=KEY, timeout=0.4)}
        )
        started = time.monotonic()
        with pytest.raises(AgentError) as caught:
            model.write(ASK)
    assert caught.value.trouble is Trouble.TIMEOUT
    assert time.monotonic() - started < 1.5


# Leaving


def closed_meanwhile(server: Wire, model: Writer) -> tuple[AgentError, float]:
    """The error of a call during which another thread closes, and the seconds that it took to end."""
    caught: list[AgentError] = []

    def write() -> None:
        with pytest.raises(AgentError) as error:
            model.write(ASK)
        caught.append(error.value)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    while not server.requests:
        time.sleep(0.005)
    started = time.monotonic()
    model.close()
    thread.join(5)
    assert not thread.is_alive()
    return caught[0], time.monotonic() - started


def test_closing_ends_a_call_that_hangs(wire: Wire) -> None:
    wire.answers = [Answer(delay=None)]
    with writer(wire, timeout=20) as model:
        error, seconds = closed_meanwhile(wire, model)
    assert error.trouble is Trouble.UNREACHABLE
    assert "it was closed" in str(error)
    assert seconds < 1
    assert len(wire.requests) == 1


def test_closing_ends_a_wait_for_another_try(wire: Wire) -> None:
    wire.answers = [Answer(wrong("busy"), 503, {"retry-after": "20"})]
    with writer(wire) as model:
        error, seconds = closed_meanwhile(wire, model)
    assert error.trouble is Trouble.UNREACHABLE
    assert seconds < 1
    assert len(wire.requests) == 1


def test_after_closing_nothing_is_sent(wire: Wire) -> None:
    with writer(wire) as model:
        model.close()
        model.close()
        with pytest.raises(AgentError):
            model.write(ASK)
    assert wire.requests == []


def test_one_writer_can_write_again_and_after_a_trouble(wire: Wire) -> None:
    wire.answers = [Answer(delay=None), Answer(completion("one")), Answer(completion("two"))]
    with writer(wire, timeout=0.3) as model:
        with pytest.raises(AgentError):
            model.write(ASK)
        assert [model.write(ASK).text, model.write(ASK).text] == ["one", "two"]
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_ollama_is_asked_to_unload_by_closing_alone(wire: Wire) -> None:
    wire.answers = [Answer(completion()), Answer({"model": "qwen3-vl:4b", "done": True, "done_reason": "unload"})]
    with writer(wire, "ollama:qwen3-vl:4b", api_key=None) as model:
        model.write(ASK)
        assert len(wire.requests) == 1
    _, unload = wire.requests
    assert (unload.method, unload.path) == ("POST", "/api/generate")
    assert unload.json() == {"model": "qwen3-vl:4b", "keep_alive": 0}
    assert "authorization" not in unload.headers


def test_a_connection_that_never_wrote_unloads_too(wire: Wire) -> None:
    wire.answers = [Answer({"done": True})]
    with writer(wire, "ollama"):
        pass
    (unload,) = wire.requests
    assert unload.json() == {"model": "qwen3-vl:8b-instruct", "keep_alive": 0}
    assert unload.headers["authorization"] == f"Bearer {KEY}"  # of a proxy before it


def test_lm_studio_is_asked_to_unload_each_instance_of_the_model(wire: Wire) -> None:
    shelf = {
        "models": [
            {"type": "llm", "key": "google/gemma-3-1b", "loaded_instances": [{"id": "google/gemma-3-1b"}]},
            {
                "type": "llm",
                "key": "qwen/qwen3-vl-8b",
                "loaded_instances": [{"id": "qwen/qwen3-vl-8b"}, {"id": "qwen/qwen3-vl-8b:2"}],
            },
        ]
    }
    wire.answers = [Answer(shelf), Answer({"instance_id": "…"})]
    with writer(wire, "lmstudio"):
        pass
    listed, *unloads = wire.requests
    assert (listed.method, listed.path) == ("GET", "/api/v1/models")
    assert [(sent.path, sent.json()) for sent in unloads] == [
        ("/api/v1/models/unload", {"instance_id": "qwen/qwen3-vl-8b"}),
        ("/api/v1/models/unload", {"instance_id": "qwen/qwen3-vl-8b:2"}),
    ]


@pytest.mark.parametrize("answer", [Answer({"error": "no"}, 500), Answer(b"<html>"), Answer({"models": 3})])
@pytest.mark.parametrize("name", ["ollama", "lmstudio"])
def test_a_failed_unload_is_logged_and_no_error(
    wire: Wire, name: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    wire.answers = [answer]
    with writer(wire, name):
        pass
    assert len(wire.requests) == 1
    assert KEY not in caplog.text
    told = "may still have" in caplog.text
    assert told or (name == "ollama" and answer.status == 200)


def test_an_unload_that_hangs_ends(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unload, "UNLOAD_SECONDS", 0.2)
    wire.answers = [Answer(delay=None)]
    started = time.monotonic()
    with writer(wire, "ollama"):
        pass
    assert time.monotonic() - started < 1.5


def test_a_server_is_known_by_its_port_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(unload, "_unload_ollama", lambda http, model: asked.append(f"{http.base_url} {model}"))
    lab = Endpoint(provider="openai", base_url="http://127.0.0.1:11434/v1/")
    connect_writer("lab:m", Ability.TEXT, {"lab": lab}).close()
    assert asked == ["http://127.0.0.1:11434/ m"]


def test_no_other_server_is_asked_to_unload(wire: Wire) -> None:
    with writer(wire, "vllm"):
        pass
    assert wire.requests == []


# Pictures


def made(file: bytes, **more: Any) -> dict[str, Any]:
    """An answer of image generation as OpenAI's reference shows it."""
    usage = {"total_tokens": 100, "input_tokens": 50, "output_tokens": 50, "input_tokens_details": {}}
    return {"created": 1713833628, "data": [{"b64_json": base64.b64encode(file).decode()}], "usage": usage} | more


def test_a_picture_comes_within_the_answer(wire: Wire) -> None:
    file = picture()
    wire.answers = [Answer(made(file))]
    with painter(wire) as model:
        painted = model.paint("a fox", 640, 352, seed=7)
    (sent,) = wire.requests
    assert (sent.method, sent.path) == ("POST", "/v1/images/generations")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.json() == {"model": "gpt-image-2.5-flare", "prompt": "a fox", "size": "1280x704"}
    assert (painted.picture, painted.tokens_in, painted.tokens_out) == (file, 50, 50)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_fetched_from_its_address_without_the_key(wire: Wire, kind: str) -> None:
    file = picture(kind)
    with loopback() as shelf:
        shelf.answers = [
            Answer(b"", 302, {"location": "/there"}),
            Answer(b"busy", 503),
            Answer(b"", 302, {"location": "/there"}),
            Answer(file, 200, {"content-type": "application/octet-stream"}),
        ]
        wire.answers = [Answer({"created": 1, "data": [{"url": f"{shelf.address}/made.png?signature=x"}]})]
        with painter(wire) as model:
            painted = model.paint("a fox", 352, 640)
        assert painted.picture == file
        assert [sent.path for sent in shelf.requests] == ["/made.png?signature=x", "/there"] * 2
        assert not [sent for sent in shelf.requests if "authorization" in sent.headers or KEY in str(sent)]
    assert len(wire.requests) == 1, "the picture is paid for once"


@pytest.mark.parametrize(
    ("model", "width", "height", "size"),
    [
        ("gpt-image-1.5", 640, 352, "1536x1024"),
        ("gpt-image-1-mini", 352, 640, "1024x1536"),
        ("gpt-image-1", 640, 640, "1024x1024"),
        ("chatgpt-image-latest", 1280, 720, "1536x1024"),
        ("dall-e-3", 1280, 720, "1792x1024"),
        ("gpt-image-2", 1280, 720, "1280x720"),
        ("gpt-image-2.6-sunburst", 352, 640, "704x1280"),
        ("some/flux", 352, 352, "1056x1056"),
        ("some/flux", 1000, 900, "1008x912"),
    ],
)
def test_the_size_is_one_that_the_model_makes(wire: Wire, model: str, width: int, height: int, size: str) -> None:
    wire.answers = [Answer(made(picture()))]
    with painter(wire, model) as found:
        found.paint("a fox", width, height)
    assert wire.requests[0].json()["size"] == size


@pytest.mark.parametrize(
    ("answer", "trouble", "sentence"),
    [
        (Answer({"created": 1, "data": []}), Trouble.NOT_AN_IMAGE, "the answer holds none"),
        (Answer({"created": 1, "data": [{}]}), Trouble.NOT_AN_IMAGE, "the answer holds none"),
        (Answer({"created": 1, "data": [{"b64_json": "?"}]}), Trouble.NOT_AN_IMAGE, "can't be opened"),
        (Answer({"created": 1, "data": [{"b64_json": "abcde"}]}), Trouble.NOT_AN_IMAGE, "what came is no base64"),
        (Answer(made(b"<svg/>")), Trouble.NOT_AN_IMAGE, "what came can't be opened"),
        (Answer(made(picture(size=(300, 300))[:-60])), Trouble.NOT_AN_IMAGE, "what came can't be opened"),
        (Answer({"created": 1, "data": [{"url": "file:///etc/passwd"}]}), Trouble.UNREACHABLE, "protocol"),
        (Answer({"detail": "Not Found"}, 404), Trouble.UNREACHABLE, "nothing answers to /v1/images/generations there"),
        (Answer(wrong("Rejected.", "moderation_blocked", "image_generation_user_error"), 400), Trouble.REFUSED, "Rej"),
        (Answer(wrong("Unknown size", param="size"), 400), Trouble.REJECTED, "Unknown size"),
    ],
)
def test_an_answer_without_a_picture_has_its_trouble(
    wire: Wire, answer: Answer, trouble: Trouble, sentence: str
) -> None:
    wire.answers = [answer]
    with painter(wire) as model, pytest.raises(AgentError) as caught:
        model.paint("a fox", 640, 352)
    assert caught.value.trouble is trouble
    assert sentence in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "trouble", "sentence"),
    [
        (Answer(b"gone", 404), Trouble.NOT_AN_IMAGE, "where it is said to lie: HTTP 404"),
        (Answer(b"<html>", 200), Trouble.NOT_AN_IMAGE, "what came can't be opened"),
        (Answer(b"x" * 3000, 200), Trouble.NOT_AN_IMAGE, "it has more than 2048 bytes"),
        (Answer(b"", 500), Trouble.OVERLOADED, "the picture: HTTP 500"),
        (Answer(delay=None), Trouble.TIMEOUT, "within 0.5 seconds"),
    ],
)
def test_an_address_without_a_picture_has_its_trouble(
    wire: Wire, answer: Answer, trouble: Trouble, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LARGEST_PICTURE", 2048)
    told = Answer({"created": 1, "data": [{"url": f"{wire.address}/made.png"}]})
    wire.answer_by = lambda request: told if request.method == "POST" else answer
    with painter(wire, timeout=0.5) as model, pytest.raises(AgentError) as caught:
        model.paint("a fox", 640, 352)
    assert caught.value.trouble is trouble
    assert sentence in str(caught.value)


def test_an_image_prompt_that_is_too_long_is_not_sent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    with painter(wire) as model:
        assert model.longest is None
        monkeypatch.setattr(type(model), "longest", 800)
        with pytest.raises(AgentError) as caught:
            model.paint("x" * 801, 640, 352)
    assert str(caught.value) == "The image prompt has 801 characters, and OpenAI takes 800."
    assert wire.requests == []


# What the environment may not do, and what is found before any call


def test_the_environment_has_no_effect(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {
        "OPENAI_API_KEY": "sk-env",
        "OPENAI_ADMIN_KEY": "sk-env",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/env",
        "OPENAI_ORG_ID": "org-env",
        "OPENAI_PROJECT_ID": "proj-env",
        "OPENAI_WEBHOOK_SECRET": "wh-env",
        "OPENAI_CUSTOM_HEADERS": "X-Env: env\nAuthorization: Bearer sk-env\nUser-Agent: env\naccept: env",
        "OPENAI_API_TYPE": "azure",
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    wire.answers = [Answer(completion())]
    with writer(wire) as model:
        model.write(ASK)
    with writer(wire, "vllm:a-model", api_key=None) as model:
        model.write(ASK)
    with_key, without = wire.requests
    assert with_key.headers.pop("authorization") == f"Bearer {KEY}"
    assert with_key.headers == without.headers
    assert set(without.headers) == {"host", "accept", "content-type", "content-length", "user-agent", "connection"}
    assert "env" not in str(without.headers)


def test_no_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    error = problem("openai", Ability.TEXT, {})
    assert error is not None
    assert error.trouble is Trouble.MISSING_KEY


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, "lab has no address: set STUDIO_PROVIDERS__LAB__BASE_URL."),
        ({"base_url": "http://"}, "The address of lab can't be read: check STUDIO_PROVIDERS__LAB__BASE_URL."),
        ({"base_url": "http://host:no/v1"}, "The address of lab can't be read"),
        ({"base_url": "http://host/v1", "api_key": "sk-1\nsk-2"}, "The key of lab has signs that no key has"),
        ({"base_url": "http://host/v1", "api_key": "sk-…"}, "check STUDIO_PROVIDERS__LAB__API_KEY."),
        ({"base_url": "http://host/v1", "api_key": "sk-1"}, None),
        ({"base_url": "http://host/v1"}, None),
    ],
)
def test_what_keeps_an_address_from_use_is_found_without_a_call(told: dict[str, str], sentence: str | None) -> None:
    error = problem("lab:m", Ability.TEXT, {"lab": Endpoint(provider="openai", **told)})
    if sentence is None:
        assert error is None
    else:
        assert error is not None
        assert error.trouble is Trouble.NOT_HERE
        assert sentence in str(error)
        assert "sk-" not in str(error)


def test_logs_hold_neither_the_key_nor_the_words(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    wire.answers = [Answer(wrong(f"busy, {KEY}"), 503), Answer(completion("a secret story"))]
    with writer(wire) as model:
        model.write(ASK)
    assert "a-model at OpenAI: 0." in caplog.text
    for kept in (KEY, "fox", "secret story", "Write the prompt"):
        assert kept not in caplog.text


def test_the_file_itself_loads_no_sdk() -> None:
    code = "import sys, agents.providers.openai; print({'openai', 'torch', 'httpx2'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert said.stdout.strip() == "set()"
