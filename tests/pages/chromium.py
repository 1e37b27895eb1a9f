"""A real Chromium, for the tests that drive the pages as a creator does."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

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
expect.set_options(timeout=30_000)  # everything else, there

DRIVES_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install one to drive the pages"),
]


def window(browser: Browser, **options: object) -> BrowserContext:
    return browser.new_context(**({"viewport": {"width": 1280, "height": 1000}, "locale": "en-GB"} | options))  # type: ignore[arg-type]


def navigate(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
