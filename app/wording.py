"""The words of a job's step: shown as they are, held against the checker's rules, and edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from agents.checker import MAX_WORDS, words_in
from app.desk import open_job, store
from app.jobs import Job, Step
from app.language import plain, t
from app.steps import findings_of

HEIGHT = 260  # pixels, of the field in which a step's words are edited


def show_text(text: str) -> None:
    """Words exactly as they are: no Markdown, no HTML, their lines and paragraphs kept."""
    st.text(text, width="stretch")


def show_findings(job: Job, prompt: str) -> None:
    """How long the words of a video prompt are, and what the checker finds in them."""
    findings = findings_of(prompt, job.brief, job.draft)
    length = t("steps.words", count=f"{words_in(prompt):g}", most=MAX_WORDS)
    if not findings:
        st.caption(f":material/check: {t('steps.no_findings')} {length}")
        return
    st.caption(length)
    sentences = (plain(t(f"steps.rule_{finding.rule}", what=finding.what)) for finding in findings)
    st.warning("\n".join(f"- {sentence}" for sentence in sentences), icon=":material/rule:")


def is_edited(job: Job, step: Step) -> bool:
    """Whether the creator is at the words of this step."""
    return bool(st.session_state.get("edited") == (job.id, step))


def offer_edit(job: Job, step: Step, label: str, text: str) -> None:
    """A button that opens the words of a step to be changed, beginning with ``text``."""
    st.button(label, key=f"edit_{step}", icon=":material/edit:", on_click=_edit, args=(job, step, text))


def show_editor(job: Job, step: Step) -> None:
    """The words of a step in a field, what the checker finds in a video prompt, and the ways out."""
    field = _field(job, step)
    st.session_state.setdefault(field, job.draft.of(step) or "")  # forgotten while another page was shown
    text = st.text_area(t("steps.your_words", step=t(f"form.step_{step}")), key=field, height=HEIGHT)
    if st.session_state.pop("nothing_written", False):
        st.error(t("steps.nothing_written"), icon=":material/error:")
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
        st.button(t("steps.discard"), key=f"discard_{step}", type="tertiary", on_click=_end_edit)


def then_open(change: Callable[..., Job | None], *args: Any, **named: Any) -> None:
    """Make a change to a job, and show the job that it gives: the same one, or the copy of one that is done."""
    changed = change(*args, **named)
    if changed is None:
        st.toast(t("steps.too_late"), icon=":material/lock_clock:")
    else:
        open_job(changed.id)


def _edit(job: Job, step: Step, text: str) -> None:
    st.session_state.edited = (job.id, step)
    st.session_state[_field(job, step)] = text


def _save(job: Job, step: Step) -> None:
    text = st.session_state[_field(job, step)].strip()
    if not text:
        st.session_state.nothing_written = True
        return
    _end_edit()
    if text != job.draft.of(step):
        findings = findings_of(text, job.brief, job.draft) if step is Step.VIDEO_PROMPT else ()
        then_open(store().write, job.id, step, text, findings=findings)


def _end_edit() -> None:
    st.session_state.edited = None


def _field(job: Job, step: Step) -> str:
    return f"words_{step}_{job.id}"
