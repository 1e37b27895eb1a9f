"""The smallest real call to an endpoint, through a provider of the tests' own and a server on the loopback."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
from PIL import Image
from pydantic import SecretStr

from agents import models, providers
from agents.models import Ability, Endpoint, Known, Provider
from agents.prompts import instructions
from agents.trial import Trial, try_out
from agents.troubles import AgentError, Trouble
from tests.agents.wire import Answer, Wire
from tests.providers import scripted

KEY = "sk-planted-in-a-test"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(scripted.__file__).parent)
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, folder])


def endpoints(wire: Wire, name: str = "mine") -> dict[str, Endpoint]:
    return {name: Endpoint(provider="scripted", base_url=wire.address, api_key=SecretStr(KEY), timeout=2)}


def only(monkeypatch: pytest.MonkeyPatch, ability: Ability) -> list[str]:
    """Make the endpoint known as one that can do this alone; the list of what was closed."""
    closed: list[str] = []

    class Watched(scripted.Scripted):
        def close(self) -> None:
            closed.append(ability)
            super().close()

    rows = {"mine": Known(title="Mine", provider="scripted", models={ability: "small"})}
    monkeypatch.setattr(models, "known", lambda: rows)
    watched = Provider(abilities=frozenset(Ability), connect=Watched)
    monkeypatch.setattr(models, "provider_of", lambda address: watched)
    monkeypatch.setattr("agents.trial.provider_of", lambda address: watched)
    return closed


def painted() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_one_word_is_asked_for_where_text_can_be(wire: Wire) -> None:
    wire.answers = [Answer(b"ok")]
    ticks = itertools.count(10.0, 0.5)
    trial = try_out("mine:small", endpoints(wire), lambda: next(ticks))
    assert trial == Trial(Ability.TEXT, "small-2026", 0.5)
    (request,) = wire.requests
    assert request.path == "/test"
    assert request.json() == {"model": "small", "user": "<say>\nok\n</say>"}
    assert "ok" in instructions(models.Task.TEST)


@pytest.mark.parametrize(
    ("ability", "path", "answer"),
    [(Ability.TEXT, "/test", b"ok"), (Ability.VISION, "/test", b"ok"), (Ability.IMAGE, "/paint", painted())],
)
def test_what_it_can_do_is_asked_and_it_is_closed(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, ability: Ability, path: str, answer: bytes
) -> None:
    closed = only(monkeypatch, ability)
    wire.answers = [Answer(answer)]
    assert try_out("mine", endpoints(wire)).ability is ability
    assert [request.path for request in wire.requests] == [path]
    assert closed == [ability]


@pytest.mark.parametrize("ability", [Ability.TEXT, Ability.IMAGE])
def test_it_is_closed_when_it_fails(wire: Wire, monkeypatch: pytest.MonkeyPatch, ability: Ability) -> None:
    closed = only(monkeypatch, ability)
    wire.answers = [Answer(f"who is {KEY}?".encode(), status=401)]
    with pytest.raises(AgentError) as caught:
        try_out("mine", endpoints(wire))
    assert caught.value.trouble is Trouble.REJECTED
    assert KEY not in str(caught.value)
    assert closed == [ability]


def test_what_is_no_picture_does_not_pass(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Ability.IMAGE)
    wire.answers = [Answer(b"<html>")]
    with pytest.raises(AgentError) as caught:
        try_out("mine", endpoints(wire))
    assert caught.value.trouble is Trouble.NOT_AN_IMAGE


def test_what_cannot_be_used_says_so_without_a_call(wire: Wire) -> None:
    for choice, trouble in (
        ("mine", Trouble.NO_MODEL_NAMED),
        ("openai", Trouble.MISSING_KEY),
        ("nobody", Trouble.NO_SUCH_PROVIDER),
    ):
        with pytest.raises(AgentError) as caught:
            try_out(choice, endpoints(wire))
        assert caught.value.trouble is trouble
    assert wire.requests == []


def test_the_built_in_answers_at_once() -> None:
    assert try_out("builtin", {}).model == "rules"


def test_weights_are_looked_at_and_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> scripted.Scripted:
        raise AssertionError("nothing is loaded for a test")

    def missing(address: models.Address, model: str, ability: Ability) -> str | None:
        return None if ability is Ability.IMAGE and model == "/painter" else f"{model} holds nothing for {ability}."

    heavy = Provider(abilities=frozenset(Ability), connect=connect, missing=missing, remote=False, heavy=True)
    monkeypatch.setattr(models, "provider_of", lambda address: heavy)
    monkeypatch.setattr("agents.trial.provider_of", lambda address: heavy)
    assert try_out("local:/painter", {}) == Trial(Ability.IMAGE, "/painter", None)
    with pytest.raises(AgentError, match="/nothing holds nothing for text"):
        try_out("local:/nothing", {})
