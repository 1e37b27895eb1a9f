"""A creator's way through the studio in a real Chromium, with the real engine and the playground checkpoint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.app.conftest import picture
from tests.studio import studio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
]
RENDER_MS = 240_000  # on two busy cores

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install one to drive the pages"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with studio(tmp_path_factory.mktemp("journey")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    strangers: list[str] = []
    page.on("request", lambda request: None if address in request.url else strangers.append(request.url))
    page.goto(address)
    expect(page.get_by_role("button", name="Generate")).to_be_visible(timeout=30_000)
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
    page.get_by_role("radio", name="Draft").click()
    page.get_by_role("button", name="Generate").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Generate without a prompt?")
    dialog.get_by_role("button", name="Generate anyway").click()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile(r"\?job="))
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Nothing was made")).to_be_visible(timeout=RENDER_MS)
