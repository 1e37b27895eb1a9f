"""What the pages work with: the store and the settings in force, their addresses, and the Create form's draft."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import streamlit as st
from streamlit.navigation.page import Page

from app.checkpoints import find_checkpoints
from app.drafts import as_content
from app.engines import clip_frame
from app.estimates import total
from app.form import KEPT
from app.jobs import Brief, Job
from app.probes import Probes
from app.settings import Settings, load
from app.store import JobStore
from app.workflow import CLIP
from mova.layout import CheckpointInfo
from mova.plan import Plan

Place = Literal["first_frame", "last_frame"]


def settings() -> Settings:
    """The settings in force."""
    return load()


def store() -> JobStore:
    """The jobs of the data folder in force."""
    return _store(settings().data)


@st.cache_resource
def _store(data: Path) -> JobStore:
    return JobStore(data)


@st.cache_resource
def probes() -> Probes:
    """The tests of models under way, of all visitors."""
    return Probes()


@st.cache_data(ttl="5s", show_spinner=False)
def checkpoints(data: Path, named: Path | None) -> list[CheckpointInfo]:
    """The checkpoints there are; looked for every few seconds at most, as a large one has many headers."""
    return find_checkpoints(data, named)


def finish_time(job: Job) -> float | None:
    """When an active job will be done (seconds since the epoch); None while that is not known."""
    return store().finish_times(time.time()).get(job.id)


def media_url(job: Job, name: str) -> str:
    """Where the browser finds a file of a job; absolute, as ``st.video`` takes no other."""
    return _url(f"/files/{job.folder}/{name}?v={job.finished_at or 0:.0f}")


def _url(path: str) -> str:
    return urljoin(st.context.url or "http://localhost", path)


def keep_pages(pages: Mapping[str, Page]) -> None:
    """Make the pages of ``main.py`` known to each other by name."""
    st.session_state.pages = dict(pages)


def page(name: str) -> Page:
    """The page of that name, for ``st.switch_page`` and ``st.page_link``."""
    found: Page = st.session_state.pages[name]
    return found


def open_job(job_id: str) -> None:
    """Show this job on Create, now and after a reload: its id goes into the address."""
    st.query_params["job"] = job_id


def make_another(job: Job) -> None:
    """Fill the Create form with what this job was asked for, its frames included, and go there."""
    now = current_form()
    content = {name: now[name] for name in ("prompt", "idea") if name in now} | as_content(job.brief, settings().data)
    for place, path in (("first_frame", job.brief.first_frame), ("last_frame", job.brief.last_frame)):
        file = settings().data / path if path else None
        if file is not None and file.is_file():
            content[place] = keep_picture(place, file.read_bytes())
    st.session_state.filled = True
    fill_form(content)


def use_frame(job: Job, which: Literal["first", "last"], place: Place = "first_frame") -> None:
    """Put a frame of this clip into the Create form, which stays as it is otherwise, and go there."""
    picture = clip_frame(settings().data / job.folder / CLIP, which)
    changes = {place: keep_picture(place, picture), f"{place}_position": 50, "orientation": job.brief.orientation}
    fill_form({**current_form(), **changes})


def current_form() -> dict[str, Any]:
    """What the Create form holds, as JSON: in this session, or else when it was last seen in any."""
    kept = st.session_state.get("draft") or store().form()
    return {**kept, **{name: st.session_state[name] for name in ("checkpoint", *KEPT) if name in st.session_state}}


def fill_form(content: Mapping[str, Any]) -> None:
    """Make this the Create form's content, and go there. Ends the script, or the callback, that calls it."""
    before = current_form()
    for place in ("first_frame", "last_frame"):
        if before.get(place) and before[place] != content.get(place):
            store().drop_upload(Path(before[place]).name)
        forget_upload(place)
    store().keep_form(dict(content))
    st.session_state.form_is_stale = True
    go("create")


def put(key: str, value: Any) -> None:
    """Have the widget of that key, drawn next, show this. What it shows already is left alone: it may be typed in."""
    if st.session_state.get(key) != value:
        st.session_state[key] = value


def forget_upload(place: str) -> None:
    """Empty the upload field of this frame, and forget what was wrong with its file."""
    st.session_state.pop(f"{place}_problem", None)
    st.session_state[f"{place}_turn"] = st.session_state.get(f"{place}_turn", 0) + 1


def keep_picture(place: str, picture: bytes) -> str:
    """Keep a picture for the form, named by its content; its path, relative to the data folder.

    Raises:
        PictureError: it can't be used.
    """
    return store().keep_upload(f"{place}-{hashlib.sha256(picture).hexdigest()[:12]}", picture)


def expected_seconds(brief: Brief, plan: Plan | None = None) -> float | None:
    """How long a clip like this takes once the engine has it; None before anything like it was measured."""
    if plan is None:
        timings = store().expected(brief)
    else:  # before there were plans, times were kept under the mode that it came to
        timings = store().expected(brief.model_copy(update={"offload": plan.offload}), plan.key)
    return None if timings is None else total(timings, brief, loaded=True)


def go(name: str) -> None:
    """Go to the page of that name. Ends the script, or the callback, that calls it."""
    st.switch_page(page(name))
