"""DashScope's wire format against a server on the loopback, through httpx as in earnest."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from agents.exchange import LARGEST_PICTURE, flaw
from agents.models import Ability, Address, Endpoint, Painter, problem
from agents.providers import dashscope
from agents.providers.dashscope import MOST_PIXELS, PROVIDER, painted_size
from agents.troubles import TRIES, AgentError, Trouble
from tests.agents.wire import Answer, Request, Wire

KEY = "sk-a-key-that-nobody-may-see"
MODEL = "z-image-turbo"
NOW = {"retry-after": "0"}


def png(width: int = 64, height: int = 32) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 60).save(file, "PNG")
    return file.getvalue()


def address(base_url: str | None, *, key: str = KEY, timeout: float = 5.0, longest: int | None = 800) -> Address:
    return Address(
        name="dashscope",
        provider="dashscope",
        title="DashScope",
        base_url=base_url,
        api_key=SecretStr(key) if key else None,
        needs_key=True,
        timeout=timeout,
        longest=longest,
        models={Ability.IMAGE: MODEL},
        configured=True,
    )


def painter(base_url: str, **told: Any) -> Painter:
    found = PROVIDER.connect(address(base_url, **told), MODEL, Ability.IMAGE)
    assert isinstance(found, Painter)
    return found


def generated(picture: str) -> dict[str, Any]:
    """The documented answer: the picture's address, then the prompt that was painted."""
    content = [{"image": picture}, {"text": "a red lighthouse"}]
    message = {"role": "assistant", "content": content, "reasoning_content": ""}
    usage = {"width": 1600, "height": 880, "image_count": 1, "input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    choices = [{"finish_reason": "stop", "message": message}]
    return {"output": {"choices": choices}, "usage": usage, "request_id": "8ba1-4f"}


def refused(code: str, message: str = "said by the server") -> dict[str, str]:
    return {"code": code, "message": message, "request_id": "8ba1-4f"}


def serve(wire: Wire, picture: bytes | Answer) -> None:
    """Answer as DashScope does, the picture under an address of its own."""
    shown = picture if isinstance(picture, Answer) else Answer(picture)
    made = Answer(generated(f"{wire.address}/result/8ba1.png?Expires=1&Signature=a%2Bb%3D"))
    wire.answer_by = lambda request: shown if request.method == "GET" else made


def trouble_of(call: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        call()
    assert KEY not in str(caught.value)
    return caught.value


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server that sends a byte every now and then, and never ends."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not ended.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    threading.Thread(target=drip, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    ended.set()
    listening.close()


def test_the_request_is_the_documented_one(wire: Wire) -> None:
    serve(wire, png())
    painter(f"{wire.address}/api/v1").paint("a {red} lighthouse, “灯塔” 🌊", 640, 352, seed=2**31 + 5)
    asked = wire.requests[0]
    assert (asked.method, asked.path) == ("POST", "/api/v1/services/aigc/multimodal-generation/generation")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["content-type"] == "application/json"
    assert asked.json() == {
        "model": MODEL,
        "input": {"messages": [{"role": "user", "content": [{"text": "a {red} lighthouse, “灯塔” 🌊"}]}]},
        "parameters": {"size": "1600*880", "prompt_extend": False, "seed": 5},
    }


def test_no_seed_is_sent_where_none_is_named(wire: Wire) -> None:
    serve(wire, png())
    painter(wire.address).paint("a lighthouse", 640, 352)
    assert "seed" not in wire.requests[0].json()["parameters"]


def test_the_picture_comes_byte_for_byte_with_what_was_reported(wire: Wire) -> None:
    picture = png()
    serve(wire, picture)
    painted = painter(wire.address).paint("a lighthouse", 640, 352)
    assert painted.picture == picture
    assert (painted.tokens_in, painted.tokens_out) == (7, 3)


def test_the_storage_server_is_asked_with_the_signed_address_and_without_the_key(wire: Wire) -> None:
    serve(wire, png())
    painter(wire.address).paint("a lighthouse", 640, 352)
    fetched = wire.requests[1]
    assert (fetched.method, fetched.path) == ("GET", "/result/8ba1.png?Expires=1&Signature=a%2Bb%3D")
    assert "authorization" not in fetched.headers
    assert KEY not in str(fetched)


@pytest.mark.parametrize(
    ("status", "code", "message", "trouble", "calls"),
    [
        (401, "InvalidApiKey", f"Incorrect API key provided: {KEY}", Trouble.BAD_KEY, 1),
        (401, "", "who are you", Trouble.BAD_KEY, 1),
        (403, "AccessDenied", "Access denied.", Trouble.BAD_KEY, 1),
        (403, "Model.AccessDenied", "Model access denied.", Trouble.NO_SUCH_MODEL, 1),
        (404, "ModelNotFound", "Model can not be found.", Trouble.NO_SUCH_MODEL, 1),
        (400, "InvalidParameter", "Model not exist.", Trouble.NO_SUCH_MODEL, 1),
        (400, "InvalidParameter", "size is out of range", Trouble.REJECTED, 1),
        (400, "DataInspectionFailed", "Output data may contain inappropriate content.", Trouble.REFUSED, 1),
        (400, "data_inspection_failed", "Input data may contain inappropriate content.", Trouble.REFUSED, 1),
        (400, "IPInfringementSuspect", "Input data is suspected of infringement.", Trouble.REFUSED, 1),
        (429, "Throttling.RateQuota", "Requests rate limit exceeded.", Trouble.RATE_LIMIT, TRIES),
        (429, "Throttling", "Requests throttling triggered.", Trouble.RATE_LIMIT, TRIES),
        (400, "Arrearage", "Access denied, your account is not in good standing.", Trouble.RATE_LIMIT, 1),
        (403, "AllocationQuota.FreeTierOnly", "The free tier is exhausted.", Trouble.RATE_LIMIT, 1),
        (500, "InternalError", "An internal error has occurred.", Trouble.OVERLOADED, TRIES),
        (503, "ModelUnavailable", "Model is unavailable.", Trouble.OVERLOADED, TRIES),
    ],
)
def test_each_documented_error_is_told_apart(
    wire: Wire, status: int, code: str, message: str, trouble: Trouble, calls: int
) -> None:
    wire.answers = [Answer(refused(code, message), status, NOW)]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is trouble
    assert len(wire.requests) == calls
    assert trouble is Trouble.BAD_KEY or message in str(error)


def test_a_key_that_the_server_repeats_is_taken_out(wire: Wire) -> None:
    wire.answers = [Answer(refused("InvalidParameter", f"bad header: Bearer {KEY}"), 400)]
    assert "Bearer …" in str(trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352)))


def test_a_rejected_key_names_the_variable_to_check(wire: Wire) -> None:
    wire.answers = [Answer(refused("InvalidApiKey"), 401)]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert "STUDIO_PROVIDERS__DASHSCOPE__API_KEY" in str(error)


@pytest.mark.parametrize("key", ["sk-clé", "sk-\nX-Other: header", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_a_bad_key_and_stays_unsaid(wire: Wire, key: str) -> None:
    wire.answers = [Answer()]
    with pytest.raises(AgentError) as caught:
        painter(wire.address, key=key).paint("a lighthouse", 640, 352)
    assert caught.value.trouble is Trouble.BAD_KEY
    assert "sk-" not in str(caught.value)
    assert wire.requests == []


def test_spaces_around_a_key_are_no_part_of_it(wire: Wire) -> None:
    serve(wire, png())
    painter(wire.address, key=f"  {KEY}\n").paint("a lighthouse", 640, 352)
    assert wire.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_after_a_busy_moment_the_call_is_made_again(wire: Wire) -> None:
    answers = [Answer(refused("Throttling"), 429, {"retry-after": "0.2"}), Answer(generated(f"{wire.address}/a.png"))]
    wire.answer_by = lambda request: Answer(png()) if request.method == "GET" else answers.pop(0)
    began = time.monotonic()
    painter(wire.address).paint("a lighthouse", 640, 352)
    assert time.monotonic() - began >= 0.2
    assert [request.method for request in wire.requests] == ["POST", "POST", "GET"]


def test_a_delay_that_is_too_long_is_not_waited_for(wire: Wire) -> None:
    wire.answers = [Answer(refused("Throttling"), 429, {"retry-after": "3600"})]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert (error.wait, len(wire.requests)) == (3600.0, 1)


def test_the_page_of_a_gateway_is_not_shown(wire: Wire) -> None:
    wire.answers = [Answer(b"<html><h1>Bad gateway</h1></html>", 502, NOW)]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.OVERLOADED
    assert "HTTP 502" in str(error)
    assert "<" not in str(error)


def test_a_redirect_is_not_followed_with_the_key(wire: Wire) -> None:
    wire.answers = [Answer(b"", 307, {"location": f"{wire.address}/elsewhere"})]
    assert trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352)).trouble is Trouble.REJECTED
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        [],
        {},
        {"output": {"choices": []}},
        {"output": {"choices": [{"message": {"content": [{"text": "no picture"}]}}]}},
        generated("file:///etc/passwd"),
        generated("/relative.png"),
    ],
)
def test_an_answer_without_the_address_of_a_picture_is_not_an_image(wire: Wire, body: Any) -> None:
    wire.answers = [Answer(body)]
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.NOT_AN_IMAGE
    assert len(wire.requests) == 1


@pytest.mark.parametrize("picture", [b"", b"<html>expired</html>", png()[:200], b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_what_does_not_open_is_not_an_image(wire: Wire, picture: bytes) -> None:
    serve(wire, picture)
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.NOT_AN_IMAGE


def test_a_picture_is_not_read_beyond_its_bound(wire: Wire) -> None:
    serve(wire, bytes(LARGEST_PICTURE + 1))
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.NOT_AN_IMAGE
    assert "30 MB" in str(error)


def test_a_picture_that_is_gone_is_told_without_its_signature(wire: Wire) -> None:
    serve(wire, Answer(b"<Error>AccessDenied</Error>", 403))
    error = trouble_of(lambda: painter(wire.address).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.NOT_AN_IMAGE
    assert "403" in str(error)
    assert "Signature" not in str(error)


def test_a_picture_is_fetched_again_but_not_paid_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.troubles.FIRST_WAIT", 0.0)
    shown = [Answer(b"", 503), Answer(png())]
    made = Answer(generated(f"{wire.address}/a.png"))
    wire.answer_by = lambda request: shown.pop(0) if request.method == "GET" else made
    painter(wire.address).paint("a lighthouse", 640, 352)
    assert [request.method for request in wire.requests] == ["POST", "GET", "GET"]


def test_a_prompt_beyond_the_limit_is_not_sent(wire: Wire) -> None:
    wire.answers = [Answer()]
    shy = painter(wire.address, longest=800)
    assert shy.longest == 800
    error = trouble_of(lambda: shy.paint("灯" * 801, 640, 352))
    assert error.trouble is Trouble.TOO_LONG
    assert "801" in str(error)
    assert "800" in str(error)
    assert wire.requests == []


def test_a_prompt_of_the_limit_is_sent(wire: Wire) -> None:
    serve(wire, png())
    painter(wire.address, longest=800).paint("灯" * 800, 640, 352)
    assert len(wire.requests) == 2


def test_a_server_that_hangs_is_a_timeout(wire: Wire) -> None:
    wire.answers = [Answer(delay=None)]
    error = trouble_of(lambda: painter(wire.address, timeout=0.2).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.TIMEOUT
    assert "0.2 seconds" in str(error)


def test_a_server_that_drips_is_a_timeout_too(dripping: str) -> None:
    began = time.monotonic()
    error = trouble_of(lambda: painter(dripping, timeout=0.4).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.TIMEOUT
    assert time.monotonic() - began < 2


def test_nobody_at_the_address_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    error = trouble_of(lambda: painter(nobody).paint("a lighthouse", 640, 352))
    assert error.trouble is Trouble.UNREACHABLE
    assert nobody in str(error)


@pytest.mark.parametrize("nowhere", ["http://", "http://[", "http://127.0.0.1:port", "https://host:99999"])
def test_an_address_that_is_none_is_found_before_any_call(nowhere: str) -> None:
    told = {"mine": Endpoint(provider="dashscope", api_key=SecretStr(KEY), base_url=nowhere)}
    found = problem("mine:a-model", Ability.IMAGE, told)
    assert found is not None
    assert found.trouble is Trouble.NOT_HERE
    assert "STUDIO_PROVIDERS__MINE__BASE_URL" in str(found)


def test_closing_ends_a_call_that_hangs(wire: Wire) -> None:
    asked = threading.Event()

    def hang(request: Request) -> Answer:
        asked.set()
        return Answer(delay=None)

    wire.answer_by = hang
    hanging = painter(wire.address, timeout=60)
    threading.Thread(target=lambda: (asked.wait(5), time.sleep(0.05), hanging.close()), daemon=True).start()
    began = time.monotonic()
    error = trouble_of(lambda: hanging.paint("a lighthouse", 640, 352))
    assert time.monotonic() - began < 3
    assert "cancelled" in str(error)


def test_closing_ends_the_wait_for_another_try(wire: Wire) -> None:
    wire.answers = [Answer(refused("Throttling"), 429, {"retry-after": "20"})]
    waiting = painter(wire.address)
    threading.Timer(0.3, waiting.close).start()
    began = time.monotonic()
    trouble_of(lambda: waiting.paint("a lighthouse", 640, 352))
    assert time.monotonic() - began < 3
    assert len(wire.requests) == 1


def test_what_is_closed_calls_no_more(wire: Wire) -> None:
    serve(wire, png())
    closed = painter(wire.address)
    closed.paint("a lighthouse", 640, 352)
    closed.close()
    closed.close()
    trouble_of(lambda: closed.paint("a lighthouse", 640, 352))
    assert len(wire.requests) == 2


def test_the_environment_names_neither_key_nor_address(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", "http://127.0.0.1:9/api/v1")
    serve(wire, png())
    painter(wire.address, key="").paint("a lighthouse", 640, 352)
    assert "authorization" not in wire.requests[0].headers


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 352), (1600, 880)), ((352, 640), (880, 1600)), ((512, 512), (1024, 1024)), ((1280, 720), (1536, 864))],
)
def test_a_ratio_is_asked_for_exactly_where_it_can_be(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert painted_size(*size) == expected


@pytest.mark.parametrize("size", [(16, 4096), (4096, 16), (4096, 4096), (1200, 496), (16, 16)])
def test_every_size_that_a_clip_can_have_has_one_that_is_taken(size: tuple[int, int]) -> None:
    across, down = painted_size(*size)
    assert 512**2 <= across * down <= MOST_PIXELS
    assert across % 16 == down % 16 == 0
    assert across / down == pytest.approx(size[0] / size[1], rel=0.03)


def test_pictures_of_the_three_kinds_open() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        assert flaw(file.getvalue()) is None


def test_an_address_without_a_base_url_says_what_to_set() -> None:
    told = {"mine": Endpoint(provider="dashscope", api_key=SecretStr(KEY))}
    found = problem(f"mine:{MODEL}", Ability.IMAGE, told)
    assert found is not None
    assert "STUDIO_PROVIDERS__MINE__BASE_URL" in str(found)


def test_it_paints_and_nothing_else() -> None:
    assert PROVIDER.abilities == {Ability.IMAGE}
    assert PROVIDER.remote


def test_its_file_loads_neither_torch_nor_an_sdk() -> None:
    asked = (
        f"import sys, {dashscope.__name__}; sys.exit(bool({{'torch', 'openai', 'google.genai'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
