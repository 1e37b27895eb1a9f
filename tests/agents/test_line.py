"""What every provider leaves to its line, and what is seen of an address before any call."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate

import pytest
from pydantic import SecretStr

from agents import line as lines
from agents.addresses import shown, unfit
from agents.exchange import fetched
from agents.line import Line, wait_asked
from agents.models import Ability, Address, Endpoint, problem
from agents.troubles import AgentError, Trouble
from tests.agents.wire import Answer, Wire

KEY = "sk-planted-0123456789"


def address(base_url: str = "http://127.0.0.1:9", key: str = KEY, timeout: float = 5.0) -> Address:
    return Address("lab", "openai", "Lab", base_url, SecretStr(key), False, timeout, None, {}, True)


@contextmanager
def serving(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """The host and port of a server that does this with each connection, and leaves it open till the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(listening.accept()[0])
            except OSError:
                return
            serve(kept[-1])

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    for each in (listening, *kept):
        each.close()


def error_of(line: Line, base_url: str) -> AgentError:
    with pytest.raises(AgentError) as caught, line.open(base_url) as client:
        client.get("/")
    assert caught.value.__suppress_context__
    return caught.value


def test_an_answer_of_no_length_that_is_cut_off_is_late_and_not_short() -> None:
    """To httpx the end of the connection is the end of such an answer."""
    with serving(lambda it: it.sendall(b"HTTP/1.0 200 OK\r\n\r\n{")) as server:
        error = error_of(Line(address(timeout=0.2), "m"), f"http://{server}")
    assert str(error) == "Lab didn't answer within 0.2 seconds."


def test_who_takes_calls_and_never_connects_is_unreachable_long_before_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "CONNECT_SECONDS", 0.1)
    with serving(lambda it: None) as server:  # TLS is never spoken
        started = time.monotonic()
        error = error_of(Line(address(), "m"), f"https://{server}/")
    assert str(error) == f"Lab can't be reached at https://{server}/: no connection within 0.1 seconds"
    assert time.monotonic() - started < 2


def test_the_line_ends_tls_under_way_too() -> None:
    line = Line(address(), "m")
    began = threading.Event()
    threading.Thread(target=lambda: (began.wait(5), line.hang_up("it was closed")), daemon=True).start()
    with serving(lambda it: began.set()) as server:
        started = time.monotonic()
        error = error_of(line, f"https://{server}")
    assert "it was closed" in str(error)
    assert time.monotonic() - started < 2


def test_a_trouble_of_a_call_that_was_hung_up_is_that_it_was(wire: Wire) -> None:
    line = Line(address(), "m")
    with pytest.raises(AgentError) as caught, line.call("there"):
        line.hang_up("it was closed")
        raise line.error(Trouble.UNREADABLE, said="it is no JSON")
    assert str(caught.value) == "Lab can't be reached at there: it was closed"


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), Line(address(), "m").call("there"):
        raise ZeroDivisionError


def test_a_picture_is_fetched_without_the_key_and_its_address_stays_unsaid(wire: Wire) -> None:
    wire.answers = [Answer(b"gone", 404)]
    with pytest.raises(AgentError) as caught:
        fetched(Line(address(), "m"), f"{wire.address}/made.png?signature=x")
    assert "signature" not in str(caught.value)
    assert KEY not in str(wire.requests)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("3", 3.0), ("0.5", 0.5), (" 2 ", 2.0), ("-1", 0.0), ("nan", 0.0), ("soon", None), ("", None)],
)
def test_a_server_says_how_long_to_wait(said: str, seconds: float | None) -> None:
    assert wait_asked({"retry-after": said}) == seconds


def test_a_server_may_say_until_when_to_wait() -> None:
    assert wait_asked({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)
    assert wait_asked({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert wait_asked({}) is None


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://user:word@host:8000/v1?key=x#y", "https://host:8000/v1"),
        ("/there?key=x", "/there"),
        ("http://host:no/?key=x", "another address"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, seen: str) -> None:
    assert shown(url) == seen


@pytest.mark.parametrize("provider", ["openai", "gemini", "dashscope"])
@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"api_key": "sk-1\nsk-2"}, "The key of lab has signs that no key has: check STUDIO_PROVIDERS__LAB__API_KEY."),
        ({"api_key": "sk-…"}, "The key of lab has signs"),
        ({"base_url": "http://["}, "The address of lab can't be read: check STUDIO_PROVIDERS__LAB__BASE_URL."),
        ({"base_url": "http://ho\nst"}, "The address of lab can't be read"),
        ({"api_key": f" {KEY}\n"}, ""),
    ],
)
def test_every_provider_finds_an_odd_address_before_any_call(
    provider: str, told: dict[str, str], sentence: str
) -> None:
    endpoint = Endpoint(**{"provider": provider, "base_url": "http://host/v1"} | told)
    found = problem("lab:m", Ability.IMAGE, {"lab": endpoint})
    assert str(found or "").startswith(sentence)
    assert (found is None) is (sentence == "")


def test_an_address_without_base_url_and_key_is_for_its_provider_to_judge() -> None:
    assert unfit(address("", "")) is None
