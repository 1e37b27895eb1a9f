"""From an idea to a clip in a real Chromium: review, edit, run from here, gallery; and a key that is found nowhere."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Response, WebSocket, expect

from app.jobs import Job, Status, Step
from app.store import JobStore
from tests.agents.wire import Answer, Wire
from tests.agents.wire import wire as loopback
from tests.pages.chromium import DRIVES_A_BROWSER, RENDER_MS, navigate, window
from tests.studio import studio

pytestmark = DRIVES_A_BROWSER

KEY = "sk-planted-9876543210"
IDEA = 'A red ball bounces on a wooden floor in a bright room. A woman says, "Higher!"'


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """The server of the one endpoint that is set up; it refuses the key, and repeats it."""
    with loopback() as server:
        server.answers = [Answer({"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}}, 400)]
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[tuple[str, JobStore]]:
    data = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_PROVIDERS__QWEN__API_KEY", KEY)
        patch.setenv("STUDIO_PROVIDERS__QWEN__BASE_URL", f"{wire.address}/v1")
        with studio(data) as address:
            yield address, JobStore(data)


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """All that any page was sent: documents, files and the frames of its websocket."""
    return []


@pytest.fixture
def page(browser: Browser, place: tuple[str, JobStore], heard: list[str]) -> Iterator[Page]:
    context = window(browser)
    page = context.new_page()

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: heard.append(str(frame)))

    def keep(response: Response) -> None:
        if "text" in response.headers.get("content-type", "") or "json" in response.headers.get("content-type", ""):
            heard.append(f"{response.url} {response.headers}")

    page.on("websocket", listen)
    page.on("response", keep)
    page.goto(place[0])
    expect(page.get_by_label("Idea", exact=True)).to_be_visible()
    yield page
    heard.append(page.content())
    context.close()


def the_job(page: Page, store: JobStore) -> Job:
    found = re.search(r"job=([0-9a-f]{32})", page.url)
    assert found, page.url
    job = store.get(found[1])
    assert job
    return job


def ask(page: Page, model: str, title: str) -> None:
    """Fill in the form: that model does everything, and the creator looks on."""
    page.get_by_label("Idea", exact=True).fill(IDEA)
    page.get_by_role("radio", name="Draft").click()
    settle(page)
    expander = page.locator(".st-key-casting")
    expander.locator("summary").click()
    for step in (Step.IMAGE_PROMPT, Step.ELEMENTS, Step.VIDEO_PROMPT):
        choice = expander.locator(f".st-key-model_{step} input")
        choice.click()
        choice.fill(model)
        settle(page)
        choice.press("Enter")
        settle(page)
        expect(choice).to_have_value(model)
    expect(expander.locator("summary")).to_contain_text(title)
    expander.get_by_role("radio", name="Review").click()


def settle(page: Page) -> None:
    """Wait until the page has answered: a list of models that is drawn anew forgets what is typed into it just then."""
    page.wait_for_timeout(500)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def test_idea_review_edit_run_from_here_gallery(page: Page, place: tuple[str, JobStore]) -> None:
    store = place[1]
    ask(page, "builtin", "Built-in")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("heading", name="Your turn")).to_be_visible()
    card = page.locator(".st-key-step_first_frame")
    expect(card.get_by_role("img").first).to_be_visible()
    page.get_by_role("button", name="Continue").click()
    card = page.locator(".st-key-step_video_prompt")
    expect(card.get_by_text("It keeps every rule")).to_be_visible()
    job = the_job(page, store)
    frame = store.data / (job.draft.first_frame or "")
    before = frame.read_bytes()

    card.get_by_role("button", name="Edit").click()
    words = card.get_by_role("textbox")
    expect(words).to_have_value(re.compile("The audio shows"))
    words.fill(words.input_value().replace("The audio shows", "The audio shows a dull thud, then"))
    card.get_by_role("button", name="Save").click()
    expect(card.get_by_text("by you · version 2 of 2")).to_be_visible()
    card.get_by_role("button", name="Run from here").click()
    expect(page.locator("video")).to_be_visible(timeout=RENDER_MS)
    page.wait_for_function("document.querySelector('video').duration > 2")

    done = the_job(page, store)
    assert done.id == job.id
    assert done.draft.first_frame == job.draft.first_frame
    assert frame.read_bytes() == before
    assert "a dull thud" in (done.draft.prompt or "")
    navigate(page, "Gallery")
    page.get_by_role("link", name="Open: A red ball").first.click()
    expect(page.locator("video")).to_be_visible()
    for step in Step:
        expect(page.locator(f".st-key-step_{step}")).to_be_visible()
    expect(page.get_by_text("a dull thud").first).to_be_visible()


def test_a_finished_clip_is_edited_in_a_copy_with_the_same_frame(page: Page, place: tuple[str, JobStore]) -> None:
    store = place[1]
    (first, *_) = store.history()
    assert first.status is Status.DONE
    page.goto(f"{place[0]}/clip?job={first.id}")
    card = page.locator(".st-key-step_video_prompt")
    card.get_by_role("button", name="Edit").click()
    expect(card.get_by_role("textbox")).to_have_value(re.compile("a dull thud"))
    card.get_by_role("textbox").fill('The ball rolls away. A woman says, "Higher!"\n\nThe audio shows one woman.')
    card.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Your turn")).to_be_visible()
    expect(page.locator(".st-key-step_video_prompt").get_by_text("no subtitles").first).to_be_visible()
    page.locator(".st-key-step_video_prompt").get_by_role("button", name="Run from here").click()
    expect(page.locator("video")).to_be_visible(timeout=RENDER_MS)
    second = the_job(page, store)
    assert second.id != first.id
    frames = [store.data / (job.draft.first_frame or "") for job in (first, second)]
    assert frames[0].samefile(frames[1])
    kept = store.get(first.id)
    assert kept == first, "the first clip is as it was"


def test_a_failed_step_is_told_and_written_by_hand(page: Page, place: tuple[str, JobStore], wire: Wire) -> None:
    ask(page, "qwen:qwen-plus", "Qwen")
    page.get_by_role("button", name="Generate").click()
    card = page.locator(".st-key-step_image_prompt")
    expect(card.get_by_test_id("stAlertContentError").get_by_text("didn't take the request")).to_be_visible()
    assert any(KEY in request.headers["authorization"] for request in wire.requests), "the key was used"
    card.get_by_role("button", name="Write it yourself").click()
    card.get_by_role("textbox").fill("Wide shot, eye level. A red ball on a wooden floor.")
    card.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Your turn")).to_be_visible()
    job = the_job(page, place[1])
    assert job.draft.image_prompt == "Wide shot, eye level. A red ball on a wooden floor."


def test_the_key_is_found_nowhere(page: Page, place: tuple[str, JobStore], heard: list[str]) -> None:
    """After runs that used it, and failed with it: in no page, row, log or file, and not in the process list."""
    address, store = place
    for name in ("queue", "gallery", "settings"):
        page.goto(f"{address}/{name}")
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Test Qwen").click()
    expect(page.get_by_text("didn't take the request").first).to_be_visible()
    heard.append(page.content())
    assert any("Qwen" in words for words in heard), "what the pages were sent was listened to"
    assert not [words[:200] for words in heard if KEY in words]
    for file in store.data.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "app.worker" in listed
    assert KEY not in listed


def test_every_step_in_chinese_on_a_phone(browser: Browser, place: tuple[str, JobStore]) -> None:
    (job,) = [job for job in place[1].history() if job.status is Status.DONE][:1]
    context = window(browser, locale="zh-CN", viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(f"{place[0]}/clip?job={job.id}")
    expect(page.locator(".st-key-step_video_prompt")).to_be_visible()
    expect(page.locator(".st-key-step_first_frame")).to_contain_text("首帧")
    page.wait_for_load_state("networkidle")
    too_wide = page.locator("[data-testid=stMain]").evaluate("main => main.scrollWidth - main.clientWidth")
    assert too_wide <= 0
    context.close()
