"""A creator's way through the studio in a real Chromium, with the real engine and the playground checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from app.settings import ROOT
from app.store import JobStore
from app.worker import is_running
from tests.app.conftest import picture, wait_for
from tests.pages import stage
from tests.pages.chromium import DRIVES_A_BROWSER, RENDER_MS, navigate, window
from tests.studio import studio

pytestmark = DRIVES_A_BROWSER


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with studio(tmp_path_factory.mktemp("journey")) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    strangers: list[str] = []
    page.on("request", lambda request: None if address in request.url else strangers.append(request.url))
    page.goto(address)
    page.get_by_role("radio", name="Simple").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    yield page
    context.close()
    assert not [url for url in strangers if url.startswith("http")], "the pages ask nobody else for anything"


def test_a_prompt_and_a_picture_become_a_clip(page: Page, tmp_path: Path) -> None:
    expect(page.get_by_text("its clips are noise")).to_be_visible()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture(640, 640, "orange", "JPEG"))
    page.get_by_label("Prompt", exact=True).fill("A paper boat on a pond. Water laps.")
    page.locator("input[type=file]").first.set_input_files(photo)
    expect(page.get_by_text("Cropped to 256 × 144")).to_be_visible()
    page.get_by_role("radio", name="Draft").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?job=[0-9a-f]{32}"))

    page.reload()  # the job is in the address, and goes on
    video = page.locator("video")
    expect(video).to_be_visible(timeout=RENDER_MS)
    page.wait_for_function("document.querySelector('video').duration > 2")
    assert video.evaluate("async video => { await video.play(); return [video.videoWidth, video.videoHeight]; }") == [
        256,
        144,
    ]
    page.wait_for_function("document.querySelector('video').webkitAudioDecodedByteCount > 0")
    expect(page.get_by_text("Made by the playground")).to_be_visible()

    link = page.get_by_role("link", name="Download").get_attribute("href")
    assert link
    answer = httpx.get(link)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.content[4:8] == b"ftyp"


def test_a_job_can_be_cancelled_and_the_form_stays(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("My own words")
    page.get_by_role("radio", name="Fine").click()
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Nothing was made")).to_be_visible(timeout=RENDER_MS)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("My own words")


def test_an_empty_prompt_is_asked_about_first(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_role("radio", name="Fine").click()
    page.get_by_role("button", name="Generate").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Generate without a prompt?")
    dialog.get_by_role("button", name="Generate anyway").click()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile(r"\?job="))
    expect(page.get_by_text("It is in the queue")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Nothing was made")).to_be_visible(timeout=RENDER_MS)


def test_from_the_first_visit_to_the_gallery(page: Page) -> None:
    page.get_by_role("button", name="Start over").click()  # the tests above have left their draft
    page.get_by_role("dialog").get_by_role("button", name="Start over").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("^A lighthouse"))
    page.get_by_role("radio", name="Draft").click()
    page.get_by_role("button", name="Generate").click()
    expect(page).to_have_url(re.compile(r"\?job=[0-9a-f]{32}"))
    navigate(page, "Queue")
    expect(page.get_by_role("progressbar")).to_be_visible(timeout=RENDER_MS)
    expect(page).to_have_title(re.compile(r"\d+ % · Queue · MOVA Studio"))
    expect(page.get_by_text("Nothing runs and nothing waits")).to_be_visible(timeout=RENDER_MS)
    navigate(page, "Gallery")
    page.get_by_role("link", name="Open: A lighthouse").first.click()
    expect(page).to_have_url(re.compile(r"/clip\?job=[0-9a-f]{32}"))
    page.wait_for_function("document.querySelector('video')?.duration > 2")
    page.locator("video").evaluate("video => video.play()")
    page.wait_for_function("document.querySelector('video').webkitAudioDecodedByteCount > 0")
    expect(page.get_by_text("Made by the playground")).to_be_visible()


# From here on with an engine that only pretends, so that what happens in the middle of a run can be waited for.


@pytest.fixture(scope="module")
def stage_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, JobStore]]:
    data = tmp_path_factory.mktemp("pretended")
    store = JobStore(data)
    command = [sys.executable, "-m", "tests.app.fakes", "0.5", "--data", str(data)]
    with subprocess.Popen(command, cwd=ROOT) as worker:
        try:
            wait_for(lambda: is_running(data))
            with studio(data) as address:
                yield address, store
        finally:
            worker.terminate()


@pytest.fixture
def store(stage_address: tuple[str, JobStore]) -> Iterator[JobStore]:
    """The jobs of the pretending studio; each test leaves its queue empty."""
    store = stage_address[1]
    yield store
    store.resume()
    for job in store.queue():
        store.cancel(job.id)
    wait_for(lambda: not store.queue())


@pytest.fixture
def tab(browser: Browser, stage_address: tuple[str, JobStore]) -> Iterator[Page]:
    context = window(browser)
    page = context.new_page()
    page.goto(f"{stage_address[0]}/queue")
    expect(page.get_by_role("heading", name="Queue", level=1)).to_be_visible(timeout=30_000)
    yield page
    context.close()


def test_a_reload_in_the_middle_and_a_second_tab_show_the_same(tab: Page, store: JobStore) -> None:
    store.submit(stage.brief("The long one.", steps=60))
    expect(tab.get_by_text(re.compile("step [3-9] of 60"))).to_be_visible()
    tab.reload()
    expect(tab.get_by_text(re.compile(r"step \d+ of 60"))).to_be_visible()
    second = tab.context.new_page()
    second.goto(tab.url)
    expect(second.get_by_text("The long one.")).to_be_visible()
    second.get_by_role("button", name="Cancel").click()
    for page in (tab, second):
        expect(page.get_by_text("Nothing runs and nothing waits")).to_be_visible()
        expect(page.get_by_text("Ended without a clip")).to_be_visible()


def test_the_queue_is_reordered_paused_and_resumed(tab: Page, store: JobStore) -> None:
    store.submit(stage.brief("The one that runs.", steps=60))
    expect(tab.get_by_role("progressbar")).to_be_visible()
    for name in ("Early.", "Late."):
        store.submit(stage.brief(name, steps=60))
    late = tab.locator("[class*=st-key-job_]", has_text="Late.")
    late.get_by_role("button", name="Move").click()
    tab.get_by_role("menuitem", name="To the front").click()
    expect(tab.locator("[class*=st-key-job_]").nth(1)).to_contain_text("Late.")
    tab.get_by_role("button", name="Pause now").click()
    expect(tab.get_by_text("Paused. Nothing starts until you resume")).to_be_visible()
    expect(tab.locator("[class*=st-key-job_]").first).to_contain_text("The one that runs.")
    expect(tab.get_by_role("progressbar")).to_be_hidden()
    tab.get_by_role("button", name="Resume").click()
    expect(tab.get_by_role("progressbar")).to_be_visible()


def test_a_clip_is_starred_deleted_had_back_and_made_again(tab: Page, store: JobStore) -> None:
    job = store.submit(stage.brief("A clip to keep. It is short.", steps=1))
    wait_for(lambda: stage.look(store, job.id).draft.clip)
    navigate(tab, "Gallery")
    card = tab.locator("[class*=st-key-card_]", has_text="A clip to keep.")
    card.get_by_role("button", name="Star").click()
    expect(card.get_by_role("button", name="Take the star away")).to_be_visible()
    card.get_by_role("link").press("Enter")  # by keyboard
    expect(tab.locator("video")).to_be_visible()
    expect(tab).to_have_title(re.compile("A clip to keep"))
    tab.get_by_role("button", name="Delete").click()
    expect(tab.get_by_text("Deleted. It is kept for a day")).to_be_visible()
    tab.get_by_role("button", name="Undo").click()
    expect(tab.locator("video")).to_be_visible()
    tab.get_by_role("button", name="Make another").click()
    expect(tab.get_by_label("Prompt", exact=True)).to_have_value("A clip to keep. It is short.")


def test_filters_are_in_the_address_and_the_back_button_undoes_them(tab: Page, store: JobStore) -> None:
    job = store.submit(stage.brief("A walrus yawns.", steps=1))
    wait_for(lambda: stage.look(store, job.id).draft.clip)
    navigate(tab, "Gallery")
    tab.get_by_role("searchbox").or_(tab.get_by_placeholder("Search in prompts")).first.fill("walrus")
    expect(tab).to_have_url(re.compile(r"q=walrus"))
    expect(tab.get_by_text("1 clip", exact=True)).to_be_visible()
    tab.get_by_role("link", name="Open: A walrus yawns.").click()
    expect(tab.locator("video")).to_be_visible()
    tab.go_back()
    expect(tab.get_by_text("1 clip", exact=True)).to_be_visible()
    expect(tab).to_have_url(re.compile(r"q=walrus"))
    tab.get_by_role("radio", name="Portrait").click()
    expect(tab.get_by_text("Nothing matches")).to_be_visible()
    tab.go_back()
    expect(tab.get_by_text("A walrus yawns.")).to_be_visible()
    tab.reload()
    expect(tab.get_by_text("A walrus yawns.")).to_be_visible()


def test_chinese_by_the_browsers_language_and_by_the_switch(
    browser: Browser, stage_address: tuple[str, JobStore], tab: Page
) -> None:
    context = window(browser, locale="zh-CN")
    page = context.new_page()
    page.goto(f"{stage_address[0]}/queue")
    expect(page.get_by_role("heading", name="队列", level=1)).to_be_visible(timeout=30_000)
    navigate(page, "作品")
    navigate(page, "设置")
    navigate(page, "创作")
    context.close()
    tab.get_by_role("radio", name="中文").click()
    expect(tab.get_by_role("heading", name="队列", level=1)).to_be_visible()
    tab.reload()
    expect(tab.get_by_role("heading", name="队列", level=1)).to_be_visible()
    navigate(tab, "作品")


def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: Browser, stage_address: tuple[str, JobStore], store: JobStore
) -> None:
    job = store.submit(stage.brief("Small.", steps=1))
    wait_for(lambda: stage.look(store, job.id).draft.clip)
    store.submit(stage.brief("A longer one that runs while somebody looks on from a phone.", steps=60))
    context = window(browser, viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page = context.new_page()
    for path in ("", "queue", "gallery", f"clip?job={job.id}", "settings"):
        page.goto(f"{stage_address[0]}/{path}")
        expect(page.get_by_role("heading", level=1).first).to_be_visible(timeout=30_000)
        page.wait_for_load_state("networkidle")
        too_wide = page.locator("[data-testid=stMain]").evaluate("main => main.scrollWidth - main.clientWidth")
        assert too_wide <= 0, path
    context.close()
