"""Tests of endpoints in threads of their own, and what is told of endpoints."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import pytest
from pydantic import SecretStr

from agents.models import Ability, Endpoint
from agents.trial import Trial
from agents.troubles import AgentError, Trouble
from app.endpoints import Row, State, all_rows
from app.probes import Failed, Passed, Probes, Running
from tests.app.conftest import wait_for

KEY = "sk-planted-in-a-test"
TOLD = {"openai": Endpoint(api_key=SecretStr(KEY))}
TRIAL = Trial(Ability.TEXT, "small", 0.5)
Call = Callable[[str, Mapping[str, Endpoint]], Trial]


def outcome(call: Call, name: str = "openai", model: str = "") -> Passed | Failed:
    probes = Probes(call, lambda: 100.0)
    probes.start(name, TOLD, model)
    wait_for(lambda: not isinstance(probes.result(name), Running))
    found = probes.result(name)
    assert isinstance(found, Passed | Failed)
    return found


def raising(error: Exception) -> Call:
    def call(choice: str, endpoints: Mapping[str, Endpoint]) -> Trial:
        raise error

    return call


def test_a_test_that_went_well() -> None:
    asked: list[str] = []

    def call(choice: str, endpoints: Mapping[str, Endpoint]) -> Trial:
        asked.append(choice)
        return TRIAL

    assert outcome(call) == Passed(TRIAL, 100.0)
    assert outcome(call, "mine", "small") == Passed(TRIAL, 100.0)
    assert asked == ["openai", "mine:small"]
    assert Probes().result("openai") is None


def test_a_test_that_failed_says_why() -> None:
    error = AgentError(Trouble.TIMEOUT, endpoint="OpenAI", seconds=2)
    assert outcome(raising(error)) == Failed("OpenAI didn't answer within 2 seconds.", 100.0)


def test_a_defect_tells_its_kind_and_no_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        found = outcome(raising(ValueError(f"Illegal header value b'Bearer {KEY}'")))
    assert found == Failed("The test broke off (ValueError). The studio's log says where.", 100.0)
    assert "test_probes.py" in caplog.text
    assert KEY not in caplog.text


def test_a_key_that_slips_through_is_taken_out() -> None:
    found = outcome(raising(AgentError(Trouble.REJECTED, endpoint="OpenAI", said=f"no {KEY}")))
    assert found == Failed("OpenAI didn't take the request: no …", 100.0)


def test_one_at_a_time_for_an_endpoint_and_others_beside_it() -> None:
    calls: list[str] = []
    going_on = threading.Event()

    def call(choice: str, endpoints: Mapping[str, Endpoint]) -> Trial:
        calls.append(choice)
        going_on.wait(10)
        return TRIAL

    probes = Probes(call, lambda: 100.0)
    for name in ("openai", "openai", "gemini", "openai"):
        probes.start(name, TOLD)
    assert probes.result("openai") == Running(100.0)
    wait_for(lambda: len(calls) == 2)
    going_on.set()
    wait_for(lambda: probes.result("openai") == probes.result("gemini") == Passed(TRIAL, 100.0))
    assert sorted(calls) == ["gemini", "openai"]
    probes.start("openai", TOLD)
    wait_for(lambda: len(calls) == 3)


# What is told of endpoints


def row(name: str, endpoints: Mapping[str, Endpoint]) -> Row:
    return next(row for row in all_rows(endpoints) if row.name == name)


@pytest.mark.parametrize(
    ("name", "told", "state", "in_use"),
    [
        ("openai", {}, State.KEY_MISSING, False),
        ("openai", TOLD, State.KEY_SET, True),
        ("openai", {"openai": Endpoint(timeout=3)}, State.KEY_MISSING, True),
        ("openai", {"openai": Endpoint(api_key=SecretStr("Schlüssel"))}, State.BROKEN, True),
        ("ollama", {}, State.NOT_SET_UP, False),
        ("ollama", {"ollama": Endpoint(base_url="http://gpu:11434/v1")}, State.SET_UP, True),
        ("ollama", {"ollama": Endpoint(api_key=SecretStr(KEY))}, State.KEY_SET, True),
        ("builtin", {}, State.NOTHING_NEEDED, True),
        ("mine", {"mine": Endpoint(provider="openai", base_url="http://gpu/v1")}, State.SET_UP, True),
        ("mine", {"mine": Endpoint(provider="openai")}, State.BROKEN, True),
        ("opnai", {"opnai": Endpoint(api_key=SecretStr(KEY))}, State.BROKEN, True),
    ],
)
def test_how_endpoints_stand(name: str, told: dict[str, Endpoint], state: State, in_use: bool) -> None:
    found = row(name, told)
    assert (found.state, found.in_use) == (state, in_use)
    assert (found.problem is not None) == (state is State.BROKEN)


def test_what_an_endpoint_can_do_and_what_to_set() -> None:
    found = row("openai", {})
    assert found.abilities == ("text", "vision", "image")
    assert [uses for _, uses in found.models] == [("text", "vision"), ("image",)]
    assert found.key_variable == "STUDIO_PROVIDERS__OPENAI__API_KEY"
    assert row("ollama", {}).address_variable == "STUDIO_PROVIDERS__OLLAMA__BASE_URL"
    assert row("dashscope", {}).tried == "image"


def test_no_key_is_in_what_is_told() -> None:
    told = {
        "openai": Endpoint(api_key=SecretStr(KEY), base_url=f"https://me:{KEY}@host/v1/{KEY}?key={KEY}"),
        "mine": Endpoint(provider="openai", base_url="https://me:hush@host:8080/v1?token=hush"),
    }
    assert not [found for found in all_rows(told) if KEY in repr(found) or "hush" in repr(found)]
    assert row("mine", told).address == "https://host:8080/v1"
    assert row("odd", {"odd": Endpoint(provider="openai", base_url="http://[")}).address is None
