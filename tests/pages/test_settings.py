"""The Settings page, without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Node

from app import desk
from app.jobs import Mode, Status
from app.probes import Running
from app.settings import Settings
from app.store import JobStore
from app.texts import catalogue
from mova.layout import MODEL_INDEX
from tests.agents import wire as loopback
from tests.agents.wire import Answer, Wire
from tests.app.conftest import wait_for
from tests.pages import stage
from tests.pages.stage import click, look, run, shown, visit


def test_what_is_in_force_and_where_it_comes_from(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_OFFLOAD", "layer")
    text = shown(visit("settings"))
    assert f"`data` **{store.data}**" in text
    assert "`offload` **layer**" in text
    assert "environment (STUDIO_OFFLOAD)" in text
    assert "`watchdog_minutes` **10**" in text
    assert "`free_first_expert` **no**" in text
    assert "`loudness` **not set**" in text


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert f"settings.about_{name}" in catalogue()


def test_chinese(store: JobStore) -> None:
    text = shown(visit("settings", "zh"))
    for words in (
        "当前生效",
        "环境变量（STUDIO_DATA）",
        "默认值",
        "本机",
        "回收站",
        "没有运行",
    ):
        assert words in text


def test_the_playground_is_there_before_it_is_made(store: JobStore) -> None:
    text = shown(visit("settings"))
    assert "MOVA-playground" in text
    assert "Made when first used" in text
    assert str(store.data / "checkpoints") in text


def test_a_checkpoint_with_something_missing_says_what(store: JobStore) -> None:
    folder = store.data / "checkpoints" / "MOVA-broken"
    folder.mkdir(parents=True)
    (folder / MODEL_INDEX).write_text("{}")
    page = visit("settings")
    assert "MOVA-broken" in shown(page)
    assert "1 problem" in shown(page)
    assert "model_index.json" in page.error[0].value.replace("\\", "")


def test_machine_and_disk_have_figures(store: JobStore) -> None:
    text = shown(visit("settings"))
    for words in ("Main memory", "Free on this disk", "GB", "Database", "Trash"):
        assert words in text


def test_the_trash_is_emptied_only_when_asked_twice(store: JobStore) -> None:
    job = stage.finished(store)
    folder = store.data / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clip.mp4").write_bytes(b"0" * 5000)
    assert visit("settings").button(key="purge").disabled, "the trash is empty"
    click(visit("clip", job=job.id), "delete")
    page = click(visit("settings"), "purge")
    assert look(store, job.id)
    assert "5 KB of deleted clips" in shown(page)
    click(page, "purge_confirm")
    assert store.get(job.id) is None
    assert not folder.exists()


def test_the_trash_can_be_kept(store: JobStore) -> None:
    job = stage.finished(store)
    (store.data / job.folder).mkdir(parents=True, exist_ok=True)
    (store.data / job.folder / "clip.mp4").write_bytes(b"0" * 5000)
    store.delete(job.id)
    page = click(visit("settings"), "purge")
    click(page, "keep")
    assert store.get(job.id) is not None


def test_the_engine_can_be_freed_and_the_queue_resumed(store: JobStore) -> None:
    job = stage.running(store)
    page = click(visit("settings"), "free_engine")
    assert store.mode() is Mode.PAUSED
    assert look(store, job.id).status is Status.QUEUED
    click(page, "resume")
    assert store.mode() is Mode.RUNNING


def test_the_worker_and_its_log(store: JobStore) -> None:
    assert "Not running" in shown(visit("settings"))
    assert "has written no log yet" in shown(visit("settings"))
    logs = store.data / "logs"
    logs.mkdir()
    (logs / "worker.log").write_text("".join(f"line {number}\n" for number in range(500)))
    with FileLock(store.data / "worker.lock"):
        page = visit("settings")
    assert "Running" in shown(page)
    lines = page.code[-1].value.splitlines()
    assert (len(lines), lines[-1]) == (200, "line 499")


def test_secrets_are_never_shown(store: JobStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('[studio]\nloudness = -23.0\n[providers]\napi_key = "hush"\n')
    monkeypatch.setattr("app.settings.SECRETS", secrets)
    monkeypatch.setattr("app.origins.SECRETS", secrets)
    text = shown(visit("settings"))
    assert "`loudness` **-23**" in text
    assert "secrets.toml" in text
    assert "hush" not in text


# Models and providers

KEY = "sk-planted-in-a-test"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with loopback.wire() as server:
        yield server


@pytest.fixture
def told(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Tells the studio of an endpoint by the environment; no test of another page is remembered."""
    monkeypatch.setattr("app.settings.SECRETS", store.data / "no secrets.toml")
    desk.probes.clear()

    def tell(name: str, **entries: str) -> None:
        for entry, value in entries.items():
            monkeypatch.setenv(f"STUDIO_PROVIDERS__{name.upper()}__{entry.upper()}", value)

    return tell


def card(page: AppTest, name: str) -> str:
    """What stands on the card of an endpoint."""
    (found,) = [block for block in blocks(page) if getattr(block.proto, "id", "").endswith(f"-provider_{name}")]
    return "\n".join(str(getattr(node, "value", "")) for node in everything(found)).replace("\\", "")


def blocks(page: AppTest) -> Iterator[Node]:
    yield from (node for node in everything(page.main) if hasattr(node, "children"))


def everything(node: Node) -> Iterator[Node]:
    yield node
    for child in getattr(node, "children", {}).values():
        yield from everything(child)


def after_test(page: AppTest, name: str) -> AppTest:
    """The page once the test has ended that its button starts."""
    click(page, f"test_{name}")
    wait_for(lambda: not isinstance(desk.probes().result(name), Running))
    return run(page)


def chat(words: str = "ok") -> Answer:
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": words}}
    return Answer({"id": "1", "object": "chat.completion", "created": 1, "model": "small-2026", "choices": [message]})


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("Built-in", "No model and no network", "A real provider would", "Needs no key")),
        ("zh", ("内置规则", "没有模型，也不用网络", "真正的提供方会", "无需密钥")),
    ],
)
def test_the_built_in_says_what_it_is(told: Callable[..., None], language: str, words: tuple[str, ...]) -> None:
    page = visit("settings", language)
    assert all(word in card(page, "builtin") for word in words)
    page = after_test(page, "builtin")
    assert {"en": "Answered in", "zh": "内应答"}[language] in card(page, "builtin")


@pytest.mark.parametrize(
    ("language", "missing", "set_up"), [("en", "Key missing", "Not set up"), ("zh", "缺少密钥", "尚未设置")]
)
def test_what_is_not_set_up_says_what_to_set(
    told: Callable[..., None], language: str, missing: str, set_up: str
) -> None:
    page = visit("settings", language)
    assert page.expander[0].label in ("More providers", "更多提供方")
    openai, ollama = card(page, "openai"), card(page, "ollama")
    for words in (
        missing,
        "`STUDIO_PROVIDERS__OPENAI__API_KEY`",
        '`api_key = "…"`',
        "`[studio.providers.openai]`",
        "https://api.openai.com/v1",
        "2026-",
        "](https://developers.openai.com",
    ):
        assert words in openai
    for words in (
        set_up,
        "`STUDIO_PROVIDERS__OLLAMA__BASE_URL=http://localhost:11434/v1`",
        "[studio.providers.ollama]",
    ):
        assert words in ollama
    assert not {button.key for button in page.button} & {"test_openai", "test_ollama"}


@pytest.mark.parametrize(("language", "is_set"), [("en", "Key set"), ("zh", "密钥已设置")])
def test_a_key_that_is_set_is_shown_nowhere(told: Callable[..., None], wire: Wire, language: str, is_set: str) -> None:
    told("openai", api_key=KEY, base_url=f"{wire.address}/v1")
    wire.answers = [Answer({"error": {"message": f"Incorrect API key provided: {KEY}"}}, status=400)]
    page = after_test(visit("settings", language), "openai")
    assert is_set in card(page, "openai")
    assert "STUDIO_PROVIDERS__OPENAI" not in card(page, "openai")
    assert wire.requests[0].headers["authorization"] == f"Bearer {KEY}"
    protos = "".join(str(node.proto) for node in everything(page.main) if hasattr(node, "proto"))
    assert is_set.encode("unicode_escape").decode() in protos or is_set in protos
    for page_source in (protos, str(page.session_state), str(page.query_params)):
        assert not [secret for secret in (KEY, KEY[:8], KEY[-8:]) if secret in page_source]


def test_what_is_set_up_comes_first(told: Callable[..., None]) -> None:
    told("minimax", api_key=KEY)
    page = visit("settings")
    more = [name for node in everything(page.expander[0]) if (name := name_of(node))]
    first = [name for block in blocks(page) if (name := name_of(block)) and name not in more]
    assert first == ["minimax", "builtin"]
    assert {"openai", "gemini", "ollama", "local"} <= set(more)


def name_of(node: Node) -> str:
    found = re.search(r"-provider_([a-z]+)$", getattr(node.proto, "id", "") if hasattr(node, "proto") else "")
    return found[1] if found else ""


def test_a_test_tells_the_latency_and_the_model(told: Callable[..., None], wire: Wire) -> None:
    told("openai", api_key=KEY, base_url=f"{wire.address}/v1")
    wire.answers = [chat()]
    page = after_test(visit("settings"), "openai")
    assert re.search(r"Answered in \d\.\d\d s: small-2026 · just now", card(page, "openai"))
    assert [request.path for request in wire.requests] == ["/v1/chat/completions"]
    assert "small-2026" in card(visit("settings", "zh"), "openai"), "another visitor sees it too"


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "OpenAI doesn't accept the key. Check STUDIO_PROVIDERS__OPENAI__API_KEY"),
        ("zh", "OpenAI 不接受这个密钥。请检查 STUDIO_PROVIDERS__OPENAI__API_KEY"),
    ],
)
def test_a_test_that_fails_tells_the_remedy(
    told: Callable[..., None], wire: Wire, language: str, sentence: str
) -> None:
    told("openai", api_key=KEY, base_url=f"{wire.address}/v1")
    wire.answers = [Answer({"error": {"message": "Incorrect API key provided"}}, status=401)]
    page = after_test(visit("settings", language), "openai")
    assert sentence in card(page, "openai")
    assert not page.button(key="test_openai").disabled


def test_a_server_that_hangs_does_not_hold_the_page_up(told: Callable[..., None], wire: Wire) -> None:
    told("openai", api_key=KEY, base_url=f"{wire.address}/v1", timeout="3")
    wire.answers = [Answer(delay=None)]
    page = visit("settings")
    click(page, "test_openai")
    assert "Asking … 0 s" in card(page, "openai")
    assert page.button(key="test_openai").disabled
    assert "Disk" in shown(page)
    wait_for(lambda: not isinstance(desk.probes().result("openai"), Running))
    assert "OpenAI didn't answer within 3 seconds." in card(run(page), "openai")
    assert len(wire.requests) == 1


def test_a_server_of_ones_own_is_tested_by_a_model_that_is_typed(told: Callable[..., None], wire: Wire) -> None:
    told("mine", provider="openai", base_url=f"{wire.address}/v1")
    wire.answers = [chat()]
    page = visit("settings")
    assert "write mine:model" in card(page, "mine")
    assert page.button(key="test_mine").disabled
    page.text_input(key="model_mine").input(" small ")
    page = after_test(run(page), "mine")
    assert wire.requests[0].json()["model"] == "small"
    assert "Answered in" in card(page, "mine")


@pytest.mark.parametrize(
    ("language", "words"), [("en", "There is no provider opnai"), ("zh", "没有名为 opnai 的提供方")]
)
def test_a_name_that_no_provider_has_is_told(told: Callable[..., None], language: str, words: str) -> None:
    told("opnai", api_key=KEY)
    page = visit("settings", language)
    assert words in card(page, "opnai")
    assert "test_opnai" not in {button.key for button in page.button}


def test_a_folder_is_looked_at_and_nothing_is_loaded(told: Callable[..., None], tmp_path: Path) -> None:
    page = visit("settings", "zh")
    page.text_input(key="model_local").input(str(tmp_path))
    page = after_test(run(page), "local")
    assert f"{tmp_path} 里没有模型" in card(page, "local")
