"""Gemini through google-genai itself, against a server on the loopback that answers as the API does."""

from __future__ import annotations

import base64
import io
import logging
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from agents.models import Ability, Address, Ask, Endpoint, Painter, Task, Writer, problem
from agents.providers import gemini
from agents.providers.gemini import PROVIDER, RATIOS, nearest_ratio
from agents.troubles import TRIES, AgentError, Trouble
from tests.agents.wire import Answer, Request, Wire

KEY = "AIza-a-key-that-nobody-may-see"
NOW = {"retry-after": "0"}
ASK = Ask(Task.TEST, "You are brief.", {"say": "ok"})


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 32), 60).convert("RGB").save(file, kind)
    return file.getvalue()


def address(base_url: str | None, *, key: str = KEY, timeout: float = 5.0, longest: int | None = None) -> Address:
    return Address(
        name="gemini",
        provider="gemini",
        title="Gemini",
        base_url=base_url,
        api_key=SecretStr(key) if key else None,
        needs_key=True,
        timeout=timeout,
        longest=longest,
        models={},
        configured=True,
    )


def writer(base_url: str, model: str = "gemini-3.8-flash", **told: Any) -> Writer:
    found = PROVIDER.connect(address(base_url, **told), model, Ability.TEXT)
    assert isinstance(found, Writer)
    return found


def painter(base_url: str, model: str = "gemini-3.1-flash-image", **told: Any) -> Painter:
    found = PROVIDER.connect(address(base_url, **told), model, Ability.IMAGE)
    assert isinstance(found, Painter)
    return found


def answered(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> dict[str, Any]:
    """The documented answer of generateContent."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0} | more
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 5, "thoughtsTokenCount": 40, "totalTokenCount": 56}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-3.8-flash-001",
        "responseId": "x",
    }


def painted(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


def refused(code: int, status: str, message: str = "said by the server", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def trouble_of(call: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        call()
    assert KEY not in str(caught.value)
    return caught.value


BAD_KEY = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}
REPEATED_KEY = {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": f"Invalid API key: {KEY}"}


def retry_after(delay: str) -> dict[str, Any]:
    help_links = [{"description": "Learn more", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}]
    return refused(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota.",
        {"@type": "type.googleapis.com/google.rpc.Help", "links": help_links},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    )


def test_a_text_is_asked_for_as_documented(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": "done"}))]
    asked = Ask(Task.VIDEO_PROMPT, "You write prompts.", {"idea": "a {fox} “狐狸” 🦊", "music": ""})
    writer(wire.address).write(asked)
    request = wire.requests[0]
    assert (request.method, request.path) == ("POST", "/v1beta/models/gemini-3.8-flash:generateContent")
    assert request.headers["x-goog-api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.json() == {
        "contents": [{"role": "user", "parts": [{"text": "<idea>\na {fox} “狐狸” 🦊\n</idea>"}]}],
        "systemInstruction": {"role": "user", "parts": [{"text": "You write prompts."}]},
        "generationConfig": {},
    }


def test_the_answer_comes_with_what_was_reported_and_thinking_counts_as_output(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": " A fox "}, {"text": "runs. \n"}))]
    written = writer(wire.address).write(ASK)
    assert written.text == "A fox runs."
    assert (written.model, written.tokens_in, written.tokens_out) == ("gemini-3.8-flash-001", 11, 45)


def test_tokens_that_were_not_reported_stay_unknown(wire: Wire) -> None:
    body = answered({"text": "A fox runs."})
    del body["usageMetadata"], body["modelVersion"]
    wire.answers = [Answer(body)]
    written = writer(wire.address).write(ASK)
    assert (written.model, written.tokens_in, written.tokens_out) == ("", None, None)


def test_thoughts_are_no_part_of_the_answer(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": "Let me think.", "thought": True}, {"text": "A fox runs."}))]
    assert writer(wire.address).write(ASK).text == "A fox runs."


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_a_picture_is_sent_byte_for_byte_with_its_type(wire: Wire, kind: str, media_type: str) -> None:
    wire.answers = [Answer(answered({"text": "{}"}))]
    shown = picture(kind)
    writer(wire.address).write(Ask(Task.ELEMENTS, "Say what you see.", images=(shown,), json=True))
    (part,) = wire.requests[0].json()["contents"][0]["parts"]
    assert base64.urlsafe_b64decode(part["inlineData"]["data"]) == shown
    assert part["inlineData"]["mime_type"] == media_type  # as google-genai writes it; the API reads both


def test_a_json_object_is_asked_for_by_its_type(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": '{"style": "oil"}'}))]
    assert writer(wire.address).write(Ask(Task.ELEMENTS, "", {"a": "b"}, json=True)).text == '{"style": "oil"}'
    assert wire.requests[0].json()["generationConfig"] == {"responseMimeType": "application/json"}


def test_a_picture_is_asked_for_as_documented(wire: Wire) -> None:
    wire.answers = [Answer(answered(painted(picture())))]
    painter(wire.address).paint("a lighthouse", 640, 352, seed=2**31 + 5)
    request = wire.requests[0]
    assert request.path == "/v1beta/models/gemini-3.1-flash-image:generateContent"
    assert request.json() == {
        "contents": [{"role": "user", "parts": [{"text": "a lighthouse"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "16:9"}, "seed": 5},
    }


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_the_picture_comes_byte_for_byte(wire: Wire, kind: str, media_type: str) -> None:
    made = picture(kind)
    wire.answers = [Answer(answered({"text": "Here it is."}, painted(made, media_type)))]
    answer = painter(wire.address).paint("a lighthouse", 640, 352)
    assert answer.picture == made
    assert (answer.model, answer.tokens_in, answer.tokens_out) == ("gemini-3.8-flash-001", 11, 45)


def test_the_sketch_of_a_thought_is_not_the_picture(wire: Wire) -> None:
    sketch, made = picture("JPEG"), picture("PNG")
    wire.answers = [Answer(answered(painted(sketch) | {"thought": True}, painted(made)))]
    assert painter(wire.address).paint("a lighthouse", 640, 352).picture == made


@pytest.mark.parametrize(
    ("size", "ratio"),
    [((640, 352), "16:9"), ((352, 640), "9:16"), ((512, 512), "1:1"), ((1280, 544), "21:9"), ((480, 608), "4:5")],
)
def test_the_nearest_ratio_is_asked_for(size: tuple[int, int], ratio: str) -> None:
    assert nearest_ratio(*size) == ratio


@pytest.mark.parametrize("ratio", RATIOS)
def test_each_ratio_is_nearest_to_itself(ratio: str) -> None:
    across, down = map(int, ratio.split(":"))
    assert nearest_ratio(across * 16, down * 16) == ratio


@pytest.mark.parametrize(
    ("status", "body", "trouble", "calls"),
    [
        (400, refused(400, "INVALID_ARGUMENT", "API key not valid.", BAD_KEY, REPEATED_KEY), Trouble.BAD_KEY, 1),
        (401, refused(401, "UNAUTHENTICATED", f"wrong: {KEY}"), Trouble.BAD_KEY, 1),
        (403, refused(403, "PERMISSION_DENIED"), Trouble.BAD_KEY, 1),
        (404, refused(404, "NOT_FOUND", "models/x is not found for API version v1beta"), Trouble.NO_SUCH_MODEL, 1),
        (400, refused(400, "INVALID_ARGUMENT", f"odd request of {KEY}"), Trouble.REJECTED, 1),
        (400, refused(400, "FAILED_PRECONDITION", "User location is not supported"), Trouble.REJECTED, 1),
        (429, refused(429, "RESOURCE_EXHAUSTED"), Trouble.RATE_LIMIT, TRIES),
        (500, refused(500, "INTERNAL"), Trouble.OVERLOADED, TRIES),
        (503, refused(503, "UNAVAILABLE", "The model is overloaded."), Trouble.OVERLOADED, TRIES),
        (504, refused(504, "DEADLINE_EXCEEDED"), Trouble.OVERLOADED, TRIES),
        (502, b"<html><h1>Bad gateway</h1></html>", Trouble.OVERLOADED, TRIES),
        (307, b"", Trouble.REJECTED, 1),
    ],
)
@pytest.mark.parametrize("ability", [Ability.TEXT, Ability.IMAGE])
def test_each_documented_error_is_told_apart(
    wire: Wire, ability: Ability, status: int, body: Any, trouble: Trouble, calls: int
) -> None:
    wire.answers = [Answer(body, status, NOW | {"location": f"{wire.address}/elsewhere"})]
    write, paint = writer(wire.address).write, painter(wire.address).paint
    error = trouble_of(lambda: write(ASK) if ability is Ability.TEXT else paint("a lighthouse", 640, 352))
    assert error.trouble is trouble
    assert len(wire.requests) == calls
    assert "<" not in str(error)


def test_what_the_server_says_is_told(wire: Wire) -> None:
    wire.answers = [Answer(refused(400, "FAILED_PRECONDITION", "User location is not supported"), 400)]
    assert "User location is not supported" in str(trouble_of(lambda: writer(wire.address).write(ASK)))


def test_a_rejected_key_names_the_variable_to_check(wire: Wire) -> None:
    wire.answers = [Answer(refused(400, "INVALID_ARGUMENT", "API key not valid.", BAD_KEY), 400)]
    assert "STUDIO_PROVIDERS__GEMINI__API_KEY" in str(trouble_of(lambda: writer(wire.address).write(ASK)))


@pytest.mark.parametrize("key", ["AIza-clé", "AIza-\nX-Other: header", "auth_tokens/AIza-ephemeral"])
def test_a_key_that_cannot_be_sent_is_a_bad_key_and_stays_unsaid(wire: Wire, key: str) -> None:
    wire.answers = [Answer()]
    error = trouble_of(lambda: writer(wire.address, key=key).write(ASK))
    assert error.trouble is Trouble.BAD_KEY
    assert "AIza" not in str(error)
    assert wire.requests == []


def test_the_delay_that_the_server_asks_for_is_kept(wire: Wire) -> None:
    wire.answers = [Answer(retry_after("0.25s"), 429), Answer(answered({"text": "done"}))]
    began = time.monotonic()
    assert writer(wire.address).write(ASK).text == "done"
    assert 0.25 <= time.monotonic() - began < 0.9
    assert len(wire.requests) == 2


def test_a_delay_that_is_too_long_is_not_waited_for(wire: Wire) -> None:
    wire.answers = [Answer(retry_after("58.93s"), 429)]
    error = trouble_of(lambda: writer(wire.address).write(ASK))
    assert (error.trouble, error.wait) == (Trouble.RATE_LIMIT, 58.93)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "IMAGE_SAFETY", "OTHER"])
def test_a_prompt_that_is_blocked_is_refused(wire: Wire, reason: str) -> None:
    wire.answers = [Answer({"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 9}})]
    error = trouble_of(lambda: writer(wire.address).write(ASK))
    assert error.trouble is Trouble.REFUSED
    assert reason in str(error)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "LANGUAGE"])
def test_an_answer_that_is_stopped_is_refused_even_if_it_began(wire: Wire, reason: str) -> None:
    wire.answers = [Answer(answered({"text": "A fox"}, finish=reason))]
    error = trouble_of(lambda: writer(wire.address).write(ASK))
    assert error.trouble is Trouble.REFUSED
    assert reason in str(error)


@pytest.mark.parametrize("reason", ["IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"])
def test_a_picture_that_is_withheld_is_refused_in_the_servers_words(wire: Wire, reason: str) -> None:
    wire.answers = [Answer({"candidates": [{"finishReason": reason, "finishMessage": "It shows a person."}]})]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.REFUSED
    assert "It shows a person." in str(error)


@pytest.mark.parametrize("finish", ["STOP", "MAX_TOKENS", "OTHER"])
@pytest.mark.parametrize("parts", [[], [{"text": " \n"}], [{"text": "Let me think.", "thought": True}]])
def test_an_answer_without_text_is_empty(wire: Wire, finish: str, parts: list[dict[str, Any]]) -> None:
    wire.answers = [Answer(answered(*parts, finish=finish))]
    assert trouble_of(lambda: writer(wire.address).write(ASK)).trouble is Trouble.EMPTY_ANSWER


@pytest.mark.parametrize("body", [{}, {"candidates": []}, {"candidates": [{"finishReason": "STOP"}]}])
def test_an_answer_without_content_is_empty(wire: Wire, body: dict[str, Any]) -> None:
    wire.answers = [Answer(body)]
    assert trouble_of(lambda: writer(wire.address).write(ASK)).trouble is Trouble.EMPTY_ANSWER


def test_an_answer_that_was_cut_off_is_not_used(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": "A fox runs over the"}, finish="MAX_TOKENS"))]
    error = trouble_of(lambda: writer(wire.address).write(ASK))
    assert error.trouble is Trouble.UNREADABLE
    assert "cut off" in str(error)


def test_an_answer_may_have_20000_characters_and_no_more(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": "x" * 20_000})), Answer(answered({"text": "x" * 20_001}))]
    assert len(writer(wire.address).write(ASK).text) == 20_000
    error = trouble_of(lambda: writer(wire.address).write(ASK))
    assert error.trouble is Trouble.UNREADABLE
    assert "20001" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>a page</html>",
        b"\xff\xfe",
        [],
        "words",
        7,
        {"candidates": 7},
        {"candidates": [[]]},
        {"candidates": [{"content": "words"}]},
        {"candidates": [{"content": {"parts": "words"}}]},
        {"promptFeedback": "words"},
    ],
)
def test_an_answer_of_another_api_is_unreadable(wire: Wire, body: Any) -> None:
    wire.answers = [Answer(body)]
    assert trouble_of(lambda: writer(wire.address).write(ASK)).trouble is Trouble.UNREADABLE
    assert len(wire.requests) == 1


@pytest.mark.parametrize("finish", ["STOP", "NO_IMAGE", "IMAGE_OTHER"])
def test_words_instead_of_a_picture_are_not_an_image(wire: Wire, finish: str) -> None:
    wire.answers = [Answer(answered({"text": "I can only describe it."}, finish=finish))]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.NOT_AN_IMAGE
    assert "I can only describe it." in str(error)


def test_nothing_instead_of_a_picture_is_not_an_image(wire: Wire) -> None:
    wire.answers = [Answer({"candidates": [{"finishReason": "NO_IMAGE"}]})]
    assert trouble_of(lambda: painter(wire.address).paint("a fox", 640, 352)).trouble is Trouble.NOT_AN_IMAGE


@pytest.mark.parametrize("data", [b"no picture", picture()[:200]])
def test_what_does_not_open_is_not_an_image(wire: Wire, data: bytes) -> None:
    wire.answers = [Answer(answered(painted(data)))]
    assert trouble_of(lambda: painter(wire.address).paint("a fox", 640, 352)).trouble is Trouble.NOT_AN_IMAGE


@pytest.mark.parametrize("model", ["../../v1/models/other", "a?key=b", "a&b", "a b", "模型", "a:generateContent"])
def test_what_cannot_be_a_models_name_is_not_asked_for(wire: Wire, model: str) -> None:
    wire.answers = [Answer()]
    assert trouble_of(lambda: writer(wire.address, model).write(ASK)).trouble is Trouble.NO_SUCH_MODEL
    assert wire.requests == []


def test_a_limit_that_is_told_is_kept(wire: Wire) -> None:
    wire.answers = [Answer()]
    assert painter(wire.address).longest is None
    shy = painter(wire.address, longest=10)
    assert shy.longest == 10
    assert trouble_of(lambda: shy.paint("x" * 11, 640, 352)).trouble is Trouble.TOO_LONG
    assert wire.requests == []


def test_a_server_that_hangs_is_a_timeout(wire: Wire) -> None:
    wire.answers = [Answer(delay=None)]
    error = trouble_of(lambda: writer(wire.address, timeout=0.3).write(ASK))
    assert error.trouble is Trouble.TIMEOUT
    assert "0.3 seconds" in str(error)
    assert len(wire.requests) == 1


def test_the_server_is_told_the_time_that_it_has(wire: Wire) -> None:
    wire.answers = [Answer(answered({"text": "done"}))]
    writer(wire.address, timeout=90).write(ASK)
    assert wire.requests[0].headers["x-server-timeout"] == "90"


def test_nobody_at_the_address_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    error = trouble_of(lambda: writer(nobody).write(ASK))
    assert error.trouble is Trouble.UNREACHABLE
    assert nobody in str(error)


@pytest.mark.parametrize("nowhere", ["http://", "http://[", "http://127.0.0.1:port", "https://host:99999"])
def test_an_address_that_is_none_is_found_before_any_call(nowhere: str) -> None:
    told = {"mine": Endpoint(provider="gemini", api_key=SecretStr(KEY), base_url=nowhere)}
    found = problem("mine:a-model", Ability.TEXT, told)
    assert found is not None
    assert found.trouble is Trouble.NOT_HERE
    assert "STUDIO_PROVIDERS__MINE__BASE_URL" in str(found)


@pytest.mark.parametrize("ability", [Ability.VISION, Ability.IMAGE])
def test_closing_ends_a_call_that_hangs(wire: Wire, ability: Ability) -> None:
    asked = threading.Event()

    def hang(request: Request) -> Answer:
        asked.set()
        return Answer(delay=None)

    wire.answer_by = hang
    writes, paints = writer(wire.address, timeout=60), painter(wire.address, timeout=60)
    hanging = paints if ability is Ability.IMAGE else writes
    threading.Thread(target=lambda: (asked.wait(5), time.sleep(0.05), hanging.close()), daemon=True).start()
    began = time.monotonic()
    trouble_of(lambda: paints.paint("a fox", 640, 352) if ability is Ability.IMAGE else writes.write(ASK))
    assert time.monotonic() - began < 3
    trouble_of(lambda: paints.paint("a fox", 640, 352) if ability is Ability.IMAGE else writes.write(ASK))
    assert len(wire.requests) == 1


def test_the_environment_has_no_effect(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "http://127.0.0.1:9"
    for name, value in {
        "GOOGLE_API_KEY": "AIza-from-the-environment",
        "GEMINI_API_KEY": "AIza-from-the-environment-too",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_CLOUD_PROJECT": "a-project",
        "GOOGLE_CLOUD_LOCATION": "us-central1",
        "GOOGLE_GEMINI_BASE_URL": elsewhere,
        "GOOGLE_VERTEX_BASE_URL": elsewhere,
        "GOOGLE_GENAI_API_VERSION": "v9",
        "GOOGLE_GENAI_HTTP_CLIENT": "httpx2",
        "GOOGLE_GENAI_CLIENT_MODE": "replay",
        "GOOGLE_GENAI_REPLAYS_DIRECTORY": "/nowhere",
        "GOOGLE_GENAI_REPLAY_ID": "any",
    }.items():
        monkeypatch.setenv(name, value)
    wire.answers = [Answer(answered({"text": "done"}))]
    writer(wire.address).write(ASK)
    writer(wire.address, key="").write(ASK)
    assert [request.headers["x-goog-api-key"] for request in wire.requests] == [KEY, "none"]
    assert {request.path for request in wire.requests} == {"/v1beta/models/gemini-3.8-flash:generateContent"}
    assert not any("from-the-environment" in str(request) for request in wire.requests)


def test_without_a_base_url_the_documented_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as server:  # a proxy that is gone, so that nothing leaves this machine
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
    found = PROVIDER.connect(address(None), "gemini-3.8-flash", Ability.TEXT)
    assert isinstance(found, Writer)
    assert "https://generativelanguage.googleapis.com" in str(trouble_of(lambda: found.write(ASK)))


def test_no_log_has_the_key_or_the_prompt(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wire.answers = [Answer(refused(503, "UNAVAILABLE"), 503, NOW), Answer(answered({"text": "done"}))]
    writer(wire.address).write(Ask(Task.IMAGE_PROMPT, "system words", {"idea": "secret words"}))
    assert KEY not in caplog.text
    assert "words" not in caplog.text
    assert "AFC" not in caplog.text  # google-genai's function calling, of which there is none here


def test_it_serves_text_vision_and_image() -> None:
    assert PROVIDER.abilities == set(Ability)
    assert PROVIDER.remote


def test_its_file_does_not_load_the_sdk() -> None:
    asked = f"import sys, {gemini.__name__}; sys.exit(bool({{'torch', 'google.genai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
