"""The steps of a job as cards, one below the other: what each made, and what its creator can do about it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import streamlit as st

from agents.models import full, problem, split
from app.agency import ABILITIES, offered
from app.desk import go, media_url, settings, store
from app.failures import TO_BE_SET, refusal, say_failure
from app.jobs import Job, Status, Step, Version
from app.language import ago, plain, summary, t, t_said, took
from app.steps import Standing, State, begun, is_builtin, name_of, next_step, stale_steps, standing, waits_at
from app.store import StoreError
from app.wording import (
    edited_step,
    offer_change,
    offer_edit,
    save_first,
    show_editor,
    show_findings,
    show_text,
    show_unsaved,
    then_open,
)
from mova.picture import PictureError

LOOKS = {  # State -> icon and colour
    State.BLANK: ("schedule", "gray"),
    State.NEEDLESS: ("remove", "gray"),
    State.WORKING: ("autorenew", "blue"),
    State.DONE: ("check", "green"),
    State.WRITTEN: ("edit", "green"),
    State.STALE: ("update", "orange"),
    State.WAITING: ("rate_review", "violet"),
    State.FAILED: ("error", "red"),
}
CLIP_STATES = {
    Status.RUNNING: State.WORKING,
    Status.DONE: State.DONE,
    Status.FAILED: State.FAILED,
}
SMALL, WIDE, TALL = 200, 440, 240  # pixels across, of one picture among others, and of one that stands alone


def show_steps(job: Job) -> None:
    """Each step of Full Workflow, then the clip; with what may be done about them unless the job is on its way."""
    if job.status is Status.DONE and job.deleted_at is None:
        st.caption(t("steps.copies"))
    versions = store().versions(job.id)
    for number, step in enumerate(job.brief.steps, 1):
        with st.container(border=True, gap="small", key=f"step_{step}"):
            _show_step(job, standing(job, step, versions.get(step, ())), number)
    with st.container(border=True, gap="small", key="step_clip"):
        _show_clip_step(job, len(job.brief.steps) + 1)


def show_turn(job: Job) -> None:
    """Say that a job in review waits for its creator, what for, and how it goes on."""
    stale, following = stale_steps(job), next_step(job)
    st.header(turn_of(job), icon=":material/rate_review:", anchor=False)
    if edited := edited_step(job):
        st.markdown(t("steps.turn_editing", step=step_name(edited)))
    elif stale:
        st.markdown(t("steps.turn_stale", steps=t("form.comma").join(step_name(step) for step in stale)))
    else:
        st.markdown(t("steps.turn_hint", next=step_name(following)))
    with st.container(horizontal=True, gap="small", key="turn_actions"):
        if stale:
            offer_change(
                job,
                t("steps.run_stale", step=step_name(stale[0])),
                partial(store().run_from, job.id, stale[0], again=True),
                key="run_stale",
                type="primary",
                icon="update",
                help=t("steps.run_stale_help"),
            )
        offer_change(
            job,
            t("steps.continue_as_it_is" if stale else "steps.continue"),
            partial(store().go_on, job.id),
            key="continue",
            type="secondary" if stale else "primary",
            icon="play_arrow",
        )
        st.button(
            t("job.cancel"),
            key="cancel",
            type="tertiary",
            icon=":material/close:",
            on_click=store().cancel,
            args=(job.id,),
        )


def turn_of(job: Job) -> str:
    """What a job in review waits for."""
    at = waits_at(job)
    return t("steps.turn", step=step_name(at)) if at else t("steps.turn_anyway")


def step_name(step: Step | None) -> str:
    """What a step is called; None is the clip."""
    return t(f"form.step_{step}" if step else "steps.clip")


def _show_step(job: Job, stand: Standing, number: int) -> None:
    _show_heading(number, stand.step, stand.state)
    free = not job.status.active and job.deleted_at is None
    if facts := _facts(job, stand):
        st.caption(plain(facts))
    edited = edited_step(job) is stand.step
    if stand.state is State.FAILED:
        _show_failure(job, stand, free and not edited)
    if free and edited:
        show_editor(job, stand.step)
    elif stand.step is Step.FIRST_FRAME:
        _show_frames(job, stand, free)
    else:
        _show_words(job, stand)
    if free and not edited and stand.state is State.BLANK:
        _show_openings(job, stand.step)
    if edited and not free:
        show_unsaved(job, stand.step)
    if stand.version is not None:
        if is_builtin(stand.version.model):
            st.caption(f":material/info: {t(f'steps.builtin_{stand.step}')}")
        if free:
            _show_actions(job, stand)
        if not job.status.active:
            _show_given(job, stand.version)
    if free and stand.others:
        _show_versions(job, stand)


def _show_heading(number: int, step: Step | None, state: State) -> None:
    icon, colour = LOOKS[state]
    words = "own_picture_is_it" if state is State.WRITTEN and step is Step.FIRST_FRAME else f"state_{state}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"heading_{step or 'clip'}"):
        st.subheader(f"{number} · {step_name(step)}", anchor=False, width="content")
        st.badge(t(f"steps.{words}"), icon=f":material/{icon}:", color=colour)  # type: ignore[arg-type]


def _facts(job: Job, stand: Standing) -> str:
    """By whom, how long, how many tokens, and which version; of a step that runs, by whom and how long so far."""
    if stand.state is State.WORKING and job.brief.full and job.progress:
        so_far = t("job.so_far", time=took(job.progress.seconds.get(stand.step, 0.0)))
        return " · ".join((_model_name(job.brief.full.models.get(stand.step, "")), so_far, *_counted(job)))
    if stand.version is None:
        return ""
    facts = [*_facts_of(stand.version)]
    if len(stand.versions) > 1:
        place = stand.versions.index(stand.version) + 1
        facts.append(t("steps.version", place=place, count=len(stand.versions)))
    return " · ".join(facts)


def _facts_of(version: Version) -> list[str]:
    if version.model is None:
        return [t("steps.by_you")]
    facts = [_model_name(version.model)]
    if not is_builtin(version.model) and version.answered_by not in ("", split(version.model)[1]):
        facts.append(t("steps.answered_by", model=version.answered_by))
    facts.append(took(version.seconds))
    if version.tokens_in is not None or version.tokens_out is not None:
        counts = {name: "–" if count is None else f"{count:,}" for name, count in _tokens(version).items()}
        facts.append(t("steps.tokens", **counts))
    return facts


def _tokens(version: Version) -> dict[str, int | None]:
    return {"given": version.tokens_in, "made": version.tokens_out}


def _model_name(choice: str) -> str:
    return t("steps.builtin") if is_builtin(choice) else name_of(choice)


def _counted(job: Job) -> list[str]:
    """Which picture of several is being painted."""
    progress = job.progress
    if progress is None or progress.total < 2:
        return []
    return [t("steps.picture", place=min(progress.step + 1, progress.total), count=progress.total)]


def _show_words(job: Job, stand: Standing) -> None:
    tries = begun(job, stand.step)
    if tries:
        st.caption(t("steps.asked_again" if stand.state is State.WORKING else "steps.begun_words"))
    text = tries[0].text if tries else job.draft.of(stand.step)
    if text is None:
        return
    show_text(text)
    if stand.step is Step.VIDEO_PROMPT:
        show_findings(job, text)


def _show_frames(job: Job, stand: Standing, free: bool) -> None:
    made = begun(job, stand.step) or filter(None, [stand.version])
    pictures = tuple(path for version in made for path in version.pictures)
    to_take = free and job.draft.first_frame is None
    if pictures and to_take:
        st.caption(t("steps.begun_pictures"))
    if len(pictures) == 1 and not to_take:
        _show_picture(job, pictures[0], TALL if job.brief.orientation == "portrait" else WIDE)
        return
    if pictures:
        grid = st.grid(2, min_column_width=150, key="frames_to_take")
    for place, path in enumerate(pictures):
        with grid.cell():
            _show_picture(job, path, None, place + 1)
            if path == job.draft.first_frame:
                st.badge(t("steps.taken"), icon=":material/check:", color="green")
            elif free:
                offer_change(job, t("steps.take"), partial(store().choose, job.id, path), key=f"take_{place}")


def _show_picture(job: Job, path: str, width: int | None, place: int | None = None) -> None:
    """A picture of the job's folder, which opens in full where it is clicked."""
    url = media_url(job, Path(path).name)
    alt = t("steps.candidate_alt", place=place) if place else t("steps.frame_alt")
    st.image(url, width=width or "stretch", link=url, alt=alt)


def _show_failure(job: Job, stand: Standing, free: bool) -> None:
    assert job.failure
    say_failure(job.failure, job.id)
    if not free:
        return
    with st.container(horizontal=True, gap="small", key="failed_actions"):
        offer_change(
            job,
            t("failure.do_retry"),
            partial(store().run_from, job.id, stand.step, again=True),
            key="try_again",
            type="primary",
            icon="replay",
        )
        _offer_again(job, stand.step, t("steps.other_model"))
        _offer_own(job, stand.step)
        if job.failure.kind in TO_BE_SET:
            st.button(
                t("failure.do_open_settings"),
                key="open_settings",
                icon=":material/settings:",
                on_click=go,
                args=("settings",),
            )


def _show_openings(job: Job, step: Step) -> None:
    """What may be done about a step that is still blank: a picture in place of all that leads to one, words begun."""
    if step is Step.FIRST_FRAME or begun(job, step):
        with st.container(horizontal=True, gap="small", key=f"openings_{step}"):
            _offer_own(job, step)


def _offer_own(job: Job, step: Step) -> None:
    """Have the creator fill the blank of a step, beginning with what it has written so far."""
    if step is Step.FIRST_FRAME:
        _offer_own_picture(job)
    else:
        offer_edit(job, step, t("steps.write_it"), next((made.text for made in begun(job, step)), ""))


def _show_actions(job: Job, stand: Standing) -> None:
    if edited_step(job) is stand.step or stand.state is State.FAILED:
        return
    with st.container(horizontal=True, gap="small", key=f"actions_{stand.step}"):
        if stand.step is Step.FIRST_FRAME:
            _offer_own_picture(job)
        else:
            offer_edit(job, stand.step, t("steps.edit"), job.draft.of(stand.step) or "")
        _offer_again(job, stand.step, t("steps.again"))
        offer_change(
            job,
            t("steps.run_from"),
            partial(store().run_from, job.id, stand.step),
            key=f"run_from_{stand.step}",
            icon="skip_next",
            help=t("steps.run_from_help"),
        )


def _offer_again(job: Job, step: Step, label: str) -> None:
    """Have the step done once more, by the same model or by another."""
    wait = save_first(job)
    with st.popover(label, icon=":material/replay:", key=f"again_{step}", disabled=wait is not None, help=wait):
        endpoints, ability = settings().providers, ABILITIES[step]
        before = full(job.brief.full.models.get(step, ""), ability, endpoints) if job.brief.full else ""
        names = {choice: _choice_name(choice) for choice in (before, *offered(step, endpoints)) if choice}
        chosen = st.selectbox(
            t("steps.model"),
            names,
            format_func=lambda choice: names.get(choice, choice),  # one that was typed has no other name
            key=f"again_model_{step}_{job.id}",
            accept_new_options=True,
            help=t("steps.model_help"),
        )
        wrong = problem(chosen or "", ability, endpoints)
        if wrong:
            st.caption(f":material/error: {plain(t_said(str(wrong)))}")
        offer_change(
            job,
            t("steps.do_again"),
            partial(store().run_from, job.id, step, again=True, model=None if chosen == before else chosen),
            key=f"do_again_{step}",
            type="primary",
            disabled=wrong is not None,
        )


def _choice_name(choice: str) -> str:
    """A choice as it may be typed. No label is the beginning of another: Streamlit empties the field at such a one."""
    if is_builtin(choice):
        return t("steps.builtin")
    return choice if split(choice)[1] else f"{choice}:…"


def _offer_own_picture(job: Job) -> None:
    widget = f"own_picture_{job.id}_{st.session_state.get('own_pictures', 0)}"
    label, wait = t("steps.own_picture"), save_first(job)
    with st.popover(label, icon=":material/upload:", key="own_picture", disabled=wait is not None, help=wait):
        st.file_uploader(
            label,
            type="image",
            key=widget,
            help=t("steps.own_picture_help"),
            on_change=_bring,
            args=(job, widget),
        )
        if wrong := st.session_state.pop("own_picture_problem", ""):
            st.error(plain(wrong), icon=":material/broken_image:")


def _bring(job: Job, widget: str) -> None:
    upload = st.session_state.get(widget)
    if upload is None:
        return
    try:
        then_open(partial(store().bring, job.id, upload.getvalue()))
    except (PictureError, StoreError, OSError) as error:
        st.session_state.own_picture_problem = refusal(error)
        return
    st.session_state.own_pictures = st.session_state.get("own_pictures", 0) + 1  # the field is empty again


def _show_given(job: Job, version: Version) -> None:
    """What the step had to go by, folded."""
    pictures = version.pictures if version.step is Step.ELEMENTS else ()
    if not version.given and not pictures:
        return
    with st.expander(t("steps.given"), icon=":material/input:", type="compact", key=f"given_{version.step}"):
        if version.given:
            show_text(version.given)
        for path in pictures:
            _show_picture(job, path, SMALL)


def _show_versions(job: Job, stand: Standing) -> None:
    """What the step brought about besides, each to be had back."""
    words = t("steps.other_version") if len(stand.others) == 1 else t("steps.other_versions", count=len(stand.others))
    with st.expander(words, icon=":material/history:", type="compact", key=f"versions_{stand.step}"):
        for version in stand.others:
            place = stand.versions.index(version) + 1
            facts = (t("steps.version_name", place=place), *_facts_of(version), ago(version.made_at))
            with st.container(border=True, gap="small", key=f"version_{stand.step}_{place}"):
                st.caption(plain(" · ".join(facts)))
                if stand.step is Step.FIRST_FRAME:
                    for path in version.pictures:
                        _show_picture(job, path, SMALL)
                else:
                    show_text(version.text)
                offer_change(
                    job,
                    t("steps.use"),
                    partial(store().use, job.id, version),
                    key=f"use_{stand.step}_{place}",
                    icon="undo",
                )


def _show_clip_step(job: Job, number: int) -> None:
    by_agent = job.progress is not None and job.progress.phase in job.brief.steps
    failed_before = job.failure is not None and job.failure.step is not None
    before = by_agent if job.status is Status.RUNNING else failed_before
    _show_heading(number, None, State.BLANK if before else CLIP_STATES.get(job.status, State.BLANK))
    st.caption(summary(job.brief))
