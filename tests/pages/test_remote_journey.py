"""A clip made elsewhere, in a real Chromium: an SGLang server is chosen, waited for, and its clip is in the gallery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from app.store import JobStore
from tests.app.fakes import write_clip
from tests.app.stub import NOT_FOUND, RUN, Stub, stub
from tests.pages.chromium import DRIVES_A_BROWSER, RENDER_MS, navigate, window
from tests.studio import studio

pytestmark = DRIVES_A_BROWSER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    clip = tmp_path_factory.mktemp("server") / "clip.mp4"
    write_clip(clip, 640, 352, 49, 24)
    with stub(clip.read_bytes()) as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, server: Stub) -> Iterator[tuple[str, JobStore]]:
    data: Path = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_SGLANG__FARM__BASE_URL", server.wire.address)
        with studio(data) as address:
            yield address, JobStore(data)


def test_a_clip_is_made_by_a_server_from_an_idea(browser: Browser, place: tuple[str, JobStore], server: Stub) -> None:
    context = window(browser)
    page = context.new_page()
    page.goto(f"{place[0]}/settings")
    expect(page.get_by_role("heading", name="farm")).to_be_visible()
    expect(page.get_by_text("0.5.23").first).to_be_visible()
    navigate(page, "Create")
    page.get_by_role("combobox", name="Engine").click()
    page.get_by_role("option", name="farm").click()
    expect(page.get_by_text("640 × 352").first).to_be_visible()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("video")).to_be_visible(timeout=RENDER_MS)
    page.wait_for_function("document.querySelector('video').duration > 1.9")
    (job,) = place[1].history()
    assert job.brief.engine == "sglang:farm"
    (handed_in,) = server.handed_in
    assert handed_in["prompt"] == job.draft.prompt
    name, kind, frame = handed_in["input_reference"]
    assert (name, kind, frame.size) == ("first_frame.png", "image/png", (640, 352))
    navigate(page, "Gallery")
    expect(page.get_by_role("link", name="Open: A red ball")).to_be_visible()
    context.close()


def test_a_server_that_dies_is_told_with_what_to_do(
    browser: Browser, place: tuple[str, JobStore], server: Stub
) -> None:
    server.states = [*RUN[:2], NOT_FOUND]
    context = window(browser)
    page = context.new_page()
    page.goto(place[0])
    page.get_by_role("combobox", name="Engine").click()
    page.get_by_role("option", name="farm").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Start it again").first).to_be_visible(timeout=RENDER_MS)
    expect(page.get_by_role("alert").first).to_contain_text("farm")
    context.close()
