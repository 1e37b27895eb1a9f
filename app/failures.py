"""Why a job ended without a clip, as a card: a sentence, what can be done about it as buttons, the details folded."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from agents.troubles import Trouble
from app.desk import go, make_another, open_job, store
from app.jobs import Failure, Job, Kind
from app.language import language, plain, t, t_said
from app.steps import as_simple
from app.store import StoreError
from app.texts import Language
from mova.picture import PictureError

# Kind of failure -> what can be done about it at once: at most two buttons, of those that have an effect.
REMEDIES = {
    Kind.CHECKPOINT: ("other_checkpoint", "open_settings"),
    Kind.GONE: ("other_checkpoint", "open_settings"),
    Kind.PICTURE: ("other_picture",),
    Kind.DISK_FULL: ("open_settings", "retry"),
    Kind.MEMORY: ("shorter", "retry"),
    Kind.GPU_MEMORY: ("offload", "light", "shorter"),
    Kind.DOES_NOT_FIT: ("light", "shorter"),
    Kind.SETTING: ("change",),
    Kind.MEDIA: ("retry", "change"),
    Kind.INTERRUPTED: ("again",),
    Kind.CLOSED: ("again",),
    Kind.HUNG: ("again", "open_settings"),
    Kind.REMOTE_NONE: ("open_settings", "retry"),
    Kind.REMOTE_UNREACHABLE: ("retry", "open_settings"),
    Kind.REMOTE_TOO_OLD: ("open_settings", "change"),
    Kind.REMOTE_UNHEALTHY: ("retry", "open_settings"),
    Kind.REMOTE_REFUSED: ("change", "retry"),
    Kind.REMOTE_FAILED: ("retry", "change"),
    Kind.REMOTE_MEMORY: ("shorter", "retry"),
    Kind.REMOTE_LOST: ("again", "open_settings"),
    Kind.REMOTE_TIMEOUT: ("retry", "open_settings"),
    Kind.REMOTE_BAD_CLIP: ("retry", "open_settings"),
    Kind.UNKNOWN: ("retry", "open_settings"),
}
MOST_REMEDIES = 2
# What is wrong with a model that Settings can tell more about.
TO_BE_SET = (
    Trouble.MISSING_KEY,
    Trouble.NOT_SET_UP,
    Trouble.BAD_KEY,
    Trouble.UNREACHABLE,
    Trouble.NOT_HERE,
    Trouble.NO_SUCH_PROVIDER,
)
# What the engine said of these tells more than the kind does.
TOLD = (
    *(Kind.CHECKPOINT, Kind.GONE, Kind.PICTURE, Kind.SETTING, Kind.MEDIA, Kind.DOES_NOT_FIT, Kind.UNKNOWN),
    *(kind for kind in Kind if kind.startswith("remote_")),
)
ICONS = {
    "open_settings": "settings",
    "change": "edit",
    "other_picture": "image",
    "other_checkpoint": "swap_horiz",
    "shorter": "edit",
    "offload": "memory",
    "light": "compress",
    "retry": "replay",
    "again": "replay",
}


def show_failure(job: Job) -> None:
    """Why a job ended without a clip: a sentence, what can be done about it as buttons, and the details, folded."""
    if job.failure is None:
        return
    _say(job.failure)
    with st.container(horizontal=True, gap="small", key=f"remedies_{job.id}"):
        for place, remedy in enumerate(remedies(job)):
            st.button(
                t(f"failure.do_{remedy}"),
                key=f"{remedy}_{job.id}",
                icon=f":material/{ICONS[remedy]}:",
                type="secondary" if place else "primary",
                on_click=_remedy,
                args=(remedy, job),
            )
    _show_details(job.failure, job.id)


def remedies(job: Job) -> list[str]:
    """What can be done about its failure at once, the best first; the names of buttons."""
    names = _offered(job.failure.kind) if job.failure else ()
    return [name for name in names if _has_effect(name, job)][:MOST_REMEDIES]


def say_failure(failure: Failure, job_id: str) -> None:
    """Why a job ended without a clip, and the details, folded; for a place that has remedies of its own."""
    _say(failure)
    _show_details(failure, job_id)


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


def _say(failure: Failure) -> None:
    st.error("\n\n".join(_words(failure)), icon=":material/error:")


def _show_details(failure: Failure, job_id: str) -> None:
    if failure.details:
        with st.expander(t("failure.details"), icon=":material/bug_report:", key=f"failure_details_{job_id}"):
            st.code(failure.details, language=None, wrap_lines=True)


def _words(failure: Failure) -> list[str]:
    said, kind = t_said(failure.sentence), failure.kind.value
    words = [f"**{plain(t(f'failure.{kind}'))}**", plain(t(f"failure.{kind}_remedy"))]
    if failure.step is None and failure.kind not in TOLD:
        return words
    if language() is Language.EN or said != failure.sentence:
        return [f"**{plain(said)}**", words[1]]
    return [words[0], plain(said), words[1]]


def _has_effect(remedy: str, job: Job) -> bool:
    if remedy == "offload":
        return "layer" not in (job.brief.offload, job.mode)
    return remedy != "light" or job.brief.preset == "exact"


def _offered(kind: Kind | Trouble) -> tuple[str, ...]:
    """An agent's step has more remedies than these, on its own card."""
    if isinstance(kind, Kind):
        return REMEDIES[kind]
    return ("retry", "open_settings") if kind in TO_BE_SET else ("retry",)


def _remedy(name: str, job: Job) -> None:
    """What agents have made for the job already is taken along, rather than paid for again."""
    match name:
        case "retry" | "again":
            store().requeue(job.id)
        case "offload" | "light":
            changes: dict[str, Any] = {"offload": "layer"} if name == "offload" else {"preset": "light"}
            open_job(store().submit(as_simple(job).brief.model_copy(update=changes | {"random_seed": False})).id)
        case "open_settings":
            go("settings")
        case _:
            make_another(as_simple(job))
