"""The frame around every page: navigation, languages, and what is said when the store can't be used."""

from __future__ import annotations

import pytest

from app.store import JobStore, StoreError
from tests.pages import many
from tests.pages.stage import click, shown, visit


@pytest.mark.parametrize("name", many.PAGES)
@pytest.mark.parametrize(("language", "other"), [("en", "zh"), ("zh", "en")])
def test_each_page_follows_the_browser_and_the_switch(store: JobStore, name: str, language: str, other: str) -> None:
    page = visit(name, language)
    before = shown(page)
    page.segmented_control(key="lang").set_value(other)
    page.run()
    assert not page.exception
    assert shown(page) != before
    assert shown(page) == shown(visit(name, language, lang=other)), "and so does the address"


@pytest.mark.parametrize("name", ["gallery", "clip", "settings"])
def test_a_store_that_cannot_be_used_is_a_sentence_and_a_way_on(
    store: JobStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("studio.db is held by another program. Close it.")

    with monkeypatch.context() as trouble:
        for verb in ("get", "find", "mode"):
            trouble.setattr(JobStore, verb, refuse)
        page = visit(name, **({"job": "1"} if name == "clip" else {}))
        (error,) = page.error
        assert "held by another program" in error.value
    click(page, "again")
    assert not page.error
