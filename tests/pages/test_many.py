"""The work of a page doesn't grow with the number of jobs: store calls and rows are counted, as times would flicker.

The times themselves: ``python -m tests.pages.many``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app import records
from app.jobs import Job
from app.store import JobStore
from tests.pages import many, stage
from tests.pages.stage import visit

PAGE_OF_ROWS = 24 + 12  # what a page of the gallery may read, and a little more


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every job that is read from the store, by id."""
    read: list[str] = []
    original = records.to_job

    def counting(row: sqlite3.Row) -> Job:
        job = original(row)
        read.append(job.id)
        return job

    for module in ("app.records", "app.store", "app.claims"):
        monkeypatch.setattr(f"{module}.to_job", counting, raising=False)
    return read


@contextmanager
def counted(read: list[str]) -> Iterator[list[str]]:
    read.clear()
    yield read


def test_a_page_reads_a_page_of_jobs_not_all_of_them(store: JobStore, rows_read: list[str]) -> None:
    clip = many.fill(store, 90)
    for name in many.PAGES:
        with counted(rows_read) as read:
            visit(name, **({"job": clip.id} if name == "clip" else {}))
        assert len(read) <= PAGE_OF_ROWS, name


def test_the_gallery_reads_no_more_on_a_late_page_or_for_a_search(store: JobStore, rows_read: list[str]) -> None:
    many.fill(store, 90)
    for params in ({"page": "3"}, {"page": "99"}, {"q": "gull"}, {"q": "walrus"}, {"state": "all"}):
        with counted(rows_read) as read:
            visit("gallery", **params)
        assert len(read) <= PAGE_OF_ROWS, params


def test_the_queue_draws_no_more_than_it_shows(store: JobStore) -> None:
    store.submit(stage.brief(), takes=80)
    page = visit("queue")
    assert len([button for button in page.button if (button.key or "").startswith("cancel_")]) == 30
