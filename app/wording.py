"""The words of a job's step: shown as they are, held against the checker's rules, and edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import streamlit as st

from agents.checker import MAX_WORDS, words_in
from app.desk import open_job, store
from app.failures import refusal
from app.jobs import Job, Step
from app.language import plain, t
from app.steps import findings_of
from app.store import StoreError

HEIGHT = 260  # pixels, of the field in which a step's words are edited
LONGEST = 20_000  # characters, of a step's words

_findings = st.cache_data(max_entries=200, show_spinner=False)(findings_of)  # a live page is drawn again and again


def show_text(text: str) -> None:
    """Words exactly as they are: no Markdown, no HTML, their lines and paragraphs kept."""
    st.text(text, width="stretch")


def show_findings(job: Job, prompt: str) -> None:
    """How long the words of a video prompt are, and what the checker finds in them."""
    findings = _findings(prompt, job.brief, job.draft)
    length = t("steps.words", count=f"{words_in(prompt):g}", most=MAX_WORDS)
    if not findings:
        st.caption(f":material/check: {t('steps.no_findings')} {length}")
        return
    st.caption(length)
    sentences = (plain(t(f"steps.rule_{finding.rule}", what=finding.what)) for finding in findings)
    st.warning("\n".join(f"- {sentence}" for sentence in sentences), icon=":material/rule:")


def edited_step(job: Job) -> Step | None:
    """The step of this job at whose words the creator is."""
    step: Step | None = st.session_state.get(_edited(job))
    return step


def save_first(job: Job) -> str | None:
    """Why the job can't be changed in any other way yet: words of it are being edited, which would be left behind."""
    step = edited_step(job)
    return t("steps.save_first", step=t(f"form.step_{step}")) if step else None


def offer_edit(job: Job, step: Step, label: str, text: str) -> None:
    """A button that opens the words of a step to be changed, beginning with ``text``."""
    st.button(
        label,
        key=f"edit_{step}",
        icon=":material/edit:",
        disabled=edited_step(job) is not None,
        help=save_first(job),
        on_click=_edit,
        args=(job, step, text),
    )


def offer_change(
    job: Job,
    label: str,
    change: Callable[[], Job | None],
    *,
    key: str,
    icon: str | None = None,
    type: Literal["primary", "secondary"] = "secondary",
    help: str | None = None,
    disabled: bool = False,
) -> None:
    """A button that makes a change to a job, unless words of it are being edited."""
    st.button(
        label,
        key=key,
        icon=icon and f":material/{icon}:",
        type=type,
        disabled=disabled or edited_step(job) is not None,
        help=save_first(job) or help,
        on_click=then_open,
        args=(change,),
    )


def show_editor(job: Job, step: Step) -> None:
    """The words of a step in a field, what the checker finds in a video prompt, and the ways out."""
    text = st.text_area(
        t("steps.your_words", step=t(f"form.step_{step}")),
        st.session_state[_kept(job, step)],
        key=_field(job, step),
        height=HEIGHT,
        max_chars=LONGEST,
        on_change=_keep,
        args=(job, step),
    )
    if wrong := st.session_state.pop("words_problem", ""):
        st.error(plain(wrong), icon=":material/error:")
    if step is Step.VIDEO_PROMPT and text.strip():
        show_findings(job, text)
    with st.container(horizontal=True, gap="small", key=f"editor_{step}"):
        st.button(
            t("steps.save"),
            key=f"save_{step}",
            type="primary",
            icon=":material/save:",
            on_click=_save,
            args=(job, step),
        )
        st.button(t("steps.discard"), key=f"discard_{step}", type="tertiary", on_click=_end_edit, args=(job,))


def show_unsaved(job: Job, step: Step) -> None:
    """The words of a step that came too late, while the job is on its way."""
    if text := st.session_state[_kept(job, step)].strip():
        st.caption(f":material/edit: {t('steps.unsaved')}")
        show_text(text)


def then_open(change: Callable[[], Job | None]) -> None:
    """Make a change to a job, and show the job that it gives: the same one, or the copy of one that is done."""
    _open(change())


def _open(changed: Job | None) -> None:
    if changed is None:
        st.toast(t("steps.too_late"), icon=":material/lock_clock:")
    else:
        open_job(changed.id)


def _edit(job: Job, step: Step, text: str) -> None:
    st.session_state[_edited(job)] = step
    st.session_state[_kept(job, step)] = text


def _keep(job: Job, step: Step) -> None:
    """Keep what is typed apart from the field: Streamlit loses that where a click on another page ends the typing."""
    st.session_state[_kept(job, step)] = st.session_state[_field(job, step)]


def _save(job: Job, step: Step) -> None:
    """Keep the words in the job. They stay in the field unless it has taken them."""
    text = st.session_state[_kept(job, step)].strip()
    if not text:
        st.session_state.words_problem = t("steps.nothing_written")
        return
    if text != job.draft.of(step):
        findings = _findings(text, job.brief, job.draft) if step is Step.VIDEO_PROMPT else ()
        try:
            changed = store().write(job.id, step, text, findings=findings)
        except (StoreError, OSError) as error:
            st.session_state.words_problem = refusal(error)
            return
        _open(changed)
        if changed is None:
            return
    _end_edit(job)


def _end_edit(job: Job) -> None:
    del st.session_state[_edited(job)]


def _edited(job: Job) -> str:
    return f"edited_{job.id}"


def _kept(job: Job, step: Step) -> str:
    return f"kept_words_{step}_{job.id}"


def _field(job: Job, step: Step) -> str:
    return f"words_{step}_{job.id}"
