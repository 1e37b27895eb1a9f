"""Why a job ended without a clip, as a card: a sentence, what can be done about it as buttons, the details folded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from app.desk import go, make_another, open_job, store
from app.jobs import Failure, Job, Kind
from app.language import language, plain, t, t_said
from app.store import StoreError
from app.texts import Language
from mova.picture import PictureError

# Kind of failure -> what can be done about it at once: at most two buttons.
REMEDIES = {
    Kind.CHECKPOINT: ("other_checkpoint", "open_settings"),
    Kind.GONE: ("other_checkpoint", "open_settings"),
    Kind.PICTURE: ("other_picture",),
    Kind.DISK_FULL: ("open_settings", "retry"),
    Kind.MEMORY: ("shorter", "retry"),
    Kind.GPU_MEMORY: ("offload", "shorter"),
    Kind.SETTING: ("change",),
    Kind.MEDIA: ("retry", "change"),
    Kind.INTERRUPTED: ("again",),
    Kind.CLOSED: ("again",),
    Kind.HUNG: ("again", "open_settings"),
    Kind.UNKNOWN: ("retry", "open_settings"),
}
# What the engine said of these tells more than the kind does.
TOLD = (Kind.CHECKPOINT, Kind.GONE, Kind.PICTURE, Kind.SETTING, Kind.MEDIA, Kind.UNKNOWN)
ICONS = {
    "open_settings": "settings",
    "change": "edit",
    "other_picture": "image",
    "other_checkpoint": "swap_horiz",
    "shorter": "edit",
    "offload": "memory",
    "retry": "replay",
    "again": "replay",
}


def show_failure(job: Job) -> None:
    """Why a job ended without a clip: a sentence, what can be done about it as buttons, and the details, folded."""
    failure = job.failure
    if failure is None:
        return
    st.error("\n\n".join(_words(failure)), icon=":material/error:")
    with st.container(horizontal=True, gap="small", key=f"remedies_{job.id}"):
        for place, remedy in enumerate(_remedies(job)):
            st.button(
                t(f"failure.do_{remedy}"),
                key=f"{remedy}_{job.id}",
                icon=f":material/{ICONS[remedy]}:",
                type="secondary" if place else "primary",
                on_click=_remedy,
                args=(remedy, job),
            )
    if failure.details:
        with st.expander(t("failure.details"), icon=":material/bug_report:", key=f"failure_details_{job.id}"):
            st.code(failure.details, language=None, wrap_lines=True)


@contextmanager
def told() -> Iterator[None]:
    """Say in a sentence what the store, the disk or a picture refuses, and go on with the page."""
    try:
        yield
    except (StoreError, PictureError, OSError) as error:
        say_refusal(error)


def say_refusal(error: Exception) -> bool:
    """For errors that end a page, a callback or a fragment: a sentence for what ``told`` knows; whether it was one."""
    if not isinstance(error, (StoreError, PictureError, OSError)):
        return False
    st.error(plain(refusal(error)), icon=":material/error:")
    return True


def refusal(error: Exception) -> str:
    """The sentence for what the store, the disk or a picture refuses."""
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        return t("failure.disk_full_now") if full else t("failure.disk_refuses", why=error.strerror or error)
    return t_said(str(error))


def _words(failure: Failure) -> list[str]:
    said = t_said(failure.sentence)
    words = [f"**{plain(t(f'failure.{failure.kind}'))}**", plain(t(f"failure.{failure.kind}_remedy"))]
    if failure.kind not in TOLD:
        return words
    if language() is Language.EN or said != failure.sentence:
        return [f"**{plain(said)}**", words[1]]
    return [words[0], plain(said), words[1]]


def _remedies(job: Job) -> list[str]:
    names = REMEDIES[job.failure.kind] if job.failure else ()
    return [name for name in names if name != "offload" or job.brief.offload != "layer"]


def _remedy(name: str, job: Job) -> None:
    match name:
        case "retry" | "again":
            store().requeue(job.id)
        case "offload":
            changes: dict[str, Any] = {"offload": "layer", "random_seed": False}
            open_job(store().submit(job.brief.model_copy(update=changes)).id)
        case "open_settings":
            go("settings")
        case _:
            make_another(job)
