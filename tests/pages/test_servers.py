"""SGLang servers on Create and on Settings, without a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app import serverdesk
from app.jobs import LOCAL, Brief, Failure, Kind, Remote, Status
from app.launch import SPLITS, Launch, command_of
from app.servers import MODELS, State
from app.settings import Server
from app.store import JobStore
from app.texts import catalogue
from mova.spec import ClipSpec
from tests.agents.wire import Answer
from tests.app.conftest import wait_for
from tests.app.stub import Stub, stub
from tests.pages.stage import click, run, shown, visit

REFUSED = ("bridge_guidance_scale", "video_shift", "audio_shift", "offload", "preset", "last_frame")


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server that the settings name; what was seen of others is forgotten."""
    serverdesk.servers.clear()
    with stub() as server:
        monkeypatch.setenv("STUDIO_SGLANG__ONE__BASE_URL", server.wire.address)
        yield server
        wait_for(lambda: not serverdesk.servers().looking())


def seen(one: Stub) -> None:
    """Have it looked at, as a page does, and wait until that is done."""
    known = {"one": Server(base_url=one.wire.address)}
    wait_for(lambda: serverdesk.servers().seen(known)["one"])


def create(one: Stub, engine: str = "sglang:one") -> AppTest:
    """The Create page with that engine chosen."""
    seen(one)
    page = visit("create")
    page.selectbox(key="engine").select(engine)
    return run(page)


def simple(page: AppTest) -> AppTest:
    page.session_state["mode"] = "simple"
    return run(page)


# Create


def test_without_servers_there_is_this_machine(store: JobStore) -> None:
    page = visit("create")
    assert page.selectbox(key="engine").options == ["This machine"]


def test_a_server_can_be_chosen_and_its_job_says_so(store: JobStore, one: Stub) -> None:
    page = simple(create(one))
    assert page.selectbox(key="engine").options == ["This machine", "Any SGLang server", "SGLang server one"]
    assert "one · MOVA-360p · Ready" in shown(page)
    assert "640 × 352" in shown(page)
    click(page, "generate")
    (job,) = store.queue()
    assert (job.brief.engine, job.brief.checkpoint) == ("sglang:one", "MOVA-360p")
    assert (job.brief.spec.width, job.brief.spec.height, job.brief.spec.fps) == (640, 352, 24)


def test_the_sizes_are_those_of_the_servers_model(store: JobStore, one: Stub) -> None:
    one.model = "/models/MOVA-720p"
    page = simple(create(one, "sglang"))
    assert "1280 × 720" in shown(page)
    click(page, "generate")
    assert store.queue()[0].brief.checkpoint == "MOVA-720p"
    assert store.queue()[0].brief.engine == "sglang"


def test_while_nothing_is_known_of_a_server_every_model_is_offered(store: JobStore, one: Stub) -> None:
    one.health = Answer(b"", 503)
    one.info = Answer(b"", 503)
    page = create(one)
    assert page.selectbox(key="model").options == list(MODELS)
    assert "one is still warming up." in shown(page)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_cannot_do_is_disabled_with_the_reason(store: JobStore, one: Stub, name: str) -> None:
    page = create(one)
    assert page.text_input(key=f"{name}_on_servers").disabled
    assert catalogue()[f"create.{name}_refused"]["en"] in shown(page)
    page.selectbox(key="engine").select(LOCAL)
    run(page)
    assert not [field for field in page.text_input if field.key == f"{name}_on_servers"]


def test_what_was_set_for_this_machine_is_kept_for_it(store: JobStore, one: Stub) -> None:
    seen(one)
    page = simple(visit("create"))
    page.number_input(key="bridge_guidance_scale").set_value(3.5)
    run(page)
    page.selectbox(key="engine").select("sglang")
    click(run(page), "generate")
    assert store.queue()[0].brief.spec.bridge_guidance_scale == 1.0
    page.selectbox(key="engine").select(LOCAL)
    assert run(page).number_input(key="bridge_guidance_scale").value == 3.5


def test_a_server_that_is_gone_from_the_settings_leaves_this_machine(
    store: JobStore, one: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(one)
    monkeypatch.delenv("STUDIO_SGLANG__ONE__BASE_URL")
    assert visit("create").selectbox(key="engine").value == LOCAL


def test_another_like_it_goes_to_the_same_engine(store: JobStore, one: Stub) -> None:
    seen(one)
    spec = ClipSpec(width=352, height=640, num_frames=97)
    job = store.submit(Brief(prompt="A gull.", engine="sglang:one", checkpoint="MOVA-360p", spec=spec))
    store.claim()
    failure = Failure(kind=Kind.REMOTE_MEMORY, sentence="one ran out of memory.", remedy="Shorter.")
    store.close(job.id, Status.FAILED, failure)
    page = visit("create", job=job.id)
    assert "one ran out of memory." in shown(page)
    page.button(key=f"shorter_{job.id}").click()
    run(page)
    assert page.selectbox(key="engine").value == "sglang:one"
    assert "352 × 640" in shown(page)


def test_a_cancelled_job_says_that_its_server_may_go_on(store: JobStore) -> None:
    spec = ClipSpec(width=640, height=352)
    job = store.submit(Brief(prompt="A gull.", engine="sglang", checkpoint="MOVA-360p", spec=spec))
    store.claim()
    remote = Remote(server="one", base_url="http://one", id="x", submitted_at=1.0)
    store.save(job.id, job.draft.model_copy(update={"remote": remote}))
    store.close(job.id, Status.CANCELLED)
    assert "The server one can't be told" in shown(visit("create", job=job.id))


# Settings


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, ("Ready", "MOVA-360p · SGLang 0.5.23")),
        ({"version": "0.5.16"}, ("Ready", "doesn't say how far a clip is")),
        ({"version": None}, ("Too old", "older than 0.5.10")),
        ({"health": Answer(b"", 503)}, ("Warming up",)),
        ({"health": Answer({"status": "unhealthy", "error": "worker 3 died"}, 503)}, ("Unhealthy", "worker 3 died")),
        ({"model": "FLUX.1-dev"}, ("Another model", "FLUX.1-dev")),
    ],
)
def test_settings_tell_how_a_server_stands(
    store: JobStore, one: Stub, answers: dict[str, object], words: tuple[str, ...]
) -> None:
    for name, answer in answers.items():
        setattr(one, name, answer)
    seen(one)
    page = visit("settings")
    assert one.wire.address in shown(page)
    for word in words:
        assert word in shown(page)


def test_a_server_that_hangs_does_not_hold_the_page(store: JobStore, one: Stub) -> None:
    one.health = Answer(delay=None)
    assert "Looking" in shown(visit("settings"))


def test_settings_in_chinese(store: JobStore, one: Stub) -> None:
    one.version = None
    seen(one)
    assert "版本过旧" in shown(visit("settings", "zh"))


def test_every_state_has_words_and_a_colour() -> None:
    assert set(serverdesk.STATES) == set(State)
    assert {f"settings.server_{state}" for state in State} <= set(catalogue())


def test_the_start_command_is_made_for_the_machine(store: JobStore) -> None:
    page = visit("settings")
    page.selectbox(key="launch_model").select("MOVA-720p")
    page.selectbox(key="launch_gpus").select(8)
    run(page)
    (command,) = [block.value for block in page.code if block.value.startswith("sglang serve")]
    assert "--model-path OpenMOSS-Team/MOVA-720p" in command
    assert "--num-gpus 8 --tp-size 1 --ring-degree 2 --ulysses-degree 4" in command


@pytest.mark.parametrize("gpus", SPLITS)
def test_the_gpus_are_those_that_the_clip_is_split_over(gpus: int) -> None:
    ring, ulysses = SPLITS[gpus]
    assert ring * ulysses == gpus
    assert 40 % ulysses == 12 % ulysses == 0, "the towers' heads"
    command = command_of(Launch(gpus=gpus))
    assert ("--attention-backend fa" in command) is (ring > 1)
    for refused in ("--adjust-frames", "--save-output", "--output-dir"):
        assert refused not in command, "serve doesn't know it"
