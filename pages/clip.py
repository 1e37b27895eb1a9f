"""A clip's own page: it plays, says how it was made, and is where the next one starts. ``/clip?job=<id>``."""

from pathlib import Path

import streamlit as st

from app import cards, ui
from app.form import in_words
from app.jobs import LAST_FRAME, Job, Rendered, Status
from app.plans import kernel_name
from app.texts import size
from app.workflow import CLIP

READABLE = 900  # pixels across, beyond which lines get too long
MEMORY = ("rss", "cuda")  # kinds that have a name of their own in the catalogue


def show_player(job: Job) -> None:
    portrait = job.brief.orientation == "portrait"
    with st.container(horizontal_alignment="center" if portrait else "left", key="player"):
        st.video(
            ui.media_url(job, CLIP),
            alt=ui.t("clip.alt", title=cards.title_of(job)),
            width=380 if portrait else "stretch",
        )
    if ui.is_playground(job):
        st.caption(f":material/science: {ui.t('clip.noise')}")
    for note in job.draft.rendered.notes if job.draft.rendered else ():
        st.caption(f":material/info: {ui.plain(ui.t_said(note))}")


def show_actions(job: Job) -> None:
    with st.container(horizontal=True, gap="small", key="clip_actions"):
        st.link_button(
            ui.t("clip.download"),
            f"{ui.media_url(job, CLIP)}&download",
            icon=":material/download:",
            type="primary",
            key="download",
        )
        st.button(
            ui.t("clip.make_another"),
            key="another",
            icon=":material/replay:",
            help=ui.t("clip.make_another_help"),
            on_click=ui.make_another,
            args=(job,),
        )
        st.menu_button(
            ui.t("clip.use_frame"),
            ("last", "first"),
            format_func=lambda which: ui.t(f"clip.use_{which}"),
            key="use_frame",
            icon=":material/last_page:",
            help=ui.t("clip.use_frame_help"),
            on_click=use_frame,
            args=(job,),
        )
        st.button(
            ui.t("clip.starred" if job.starred else "clip.star"),
            key="star",
            icon=":material/check:" if job.starred else ":material/star:",
            on_click=store.star,
            args=(job.id, not job.starred),
        )
        st.button(ui.t("clip.delete"), key="delete", icon=":material/delete:", on_click=delete, args=(job.id,))


def use_frame(job: Job) -> None:
    ui.use_frame(job, st.session_state.use_frame)


def show_deleted(job: Job) -> None:
    """A deleted clip can still be had back, here, for as long as it is kept."""
    st.info(ui.t("clip.deleted"), icon=":material/delete:")
    with st.container(horizontal=True, key="deleted_actions"):
        st.button(
            ui.t("clip.undo"),
            key="undo",
            icon=":material/undo:",
            type="primary",
            on_click=restore,
            args=(job.id,),
        )
        st.button(ui.t("clip.to_gallery"), key="to_gallery", on_click=cards.going("gallery"))


def delete(job_id: str) -> None:
    store.delete(job_id)
    cards.forget_usage()


def restore(job_id: str) -> None:
    store.restore(job_id)
    cards.forget_usage()


def show_prompt(job: Job) -> None:
    """The words that the clip was made from; above them, where agents wrote those, the idea that they began with."""
    if job.brief.full:
        show_words("clip.idea", job.brief.prompt)
    show_words("clip.prompt", job.draft.prompt or "")
    if job.brief.full and job.draft.prompt:
        st.button(
            ui.t("clip.another_take"),
            key="another_take",
            icon=":material/casino:",
            help=ui.t("clip.another_take_help"),
            on_click=another_take,
            args=(job,),
        )


def show_words(name: str, words: str) -> None:
    st.header(ui.t(name), anchor=False)
    if words.strip():
        ui.show_text(words.strip())
    else:
        st.caption(ui.t("clip.no_prompt"))


def another_take(job: Job) -> None:
    """The same prompt and first frame in the Create form, with a seed that is open."""
    simple = ui.as_simple(job)
    ui.make_another(simple.model_copy(update={"brief": simple.brief.model_copy(update={"random_seed": True})}))


def show_frames(job: Job) -> None:
    given = [(Path(job.draft.first_frame).name, ui.t("clip.first_frame"))] if job.draft.first_frame else []
    if job.brief.last_frame:
        given.append((LAST_FRAME, ui.t("clip.last_frame")))
    painted = job.draft.first_frame != job.brief.first_frame
    st.header(ui.t("clip.painted_frames" if painted else "clip.frames"), anchor=False)
    if not given:
        st.caption(ui.t("clip.text_only"))
    with st.container(horizontal=True, key="frames"):
        for name, words in given:
            st.image(ui.media_url(job, name), words, width=200, alt=words)


def show_settings(job: Job) -> None:
    st.header(ui.t("clip.settings"), anchor=False)
    cards.show_facts(list(in_words(job.brief, ui.language()).items()), ui.t("clip.settings"))


def show_sound(rendered: Rendered) -> None:
    silent = rendered.loudness is None
    rows = [
        (
            ui.t("clip.loudness"),
            ui.t("clip.silent") if silent else ui.t("clip.loudness_value", value=cards.number(rendered.loudness or 0)),
        ),
        (ui.t("clip.sample_rate"), f"{rendered.sample_rate / 1000:g} kHz"),
    ]
    if rendered.true_peak is not None:
        rows.insert(1, (ui.t("clip.true_peak"), f"{cards.number(rendered.true_peak)} dBTP"))
    if rendered.gain_db:
        rows.append((ui.t("clip.gain"), f"{cards.number(rendered.gain_db)} dB"))
    st.header(ui.t("clip.sound"), anchor=False)
    cards.show_facts(rows, ui.t("clip.sound"))


def show_making(job: Job) -> None:
    """When and on what it was made, what that took, and how long each phase was."""
    rows = [(ui.t("clip.created"), ui.when(job.created_at))]
    if job.started_at and job.finished_at:
        rows.append((ui.t("clip.took"), ui.clock(job.finished_at - job.started_at)))
    if job.device:
        rows.append((ui.t("clip.device"), job.device))
    rows += plan_rows(job)
    for name, amount in job.peak_memory.items():
        label = ui.t(f"clip.memory_{name}") if name in MEMORY else ui.t("clip.memory_other", name=name)
        rows.append((label, size(amount)))
    st.header(ui.t("clip.making"), anchor=False)
    cards.show_facts(rows, ui.t("clip.making"))
    told = job.draft.rendered.notes if job.draft.rendered else ()
    for note in job.notes:
        if note not in told:
            st.caption(f":material/info: {ui.plain(ui.t_said(note))}")
    if job.progress and job.progress.seconds:
        times = [(ui.phase_name(phase), ui.took(seconds)) for phase, seconds in job.progress.seconds.items()]
        st.header(ui.t("clip.times"), anchor=False)
        cards.show_facts(times, ui.t("clip.times"))
    if log := store.log(job.id):
        with st.expander(ui.t("clip.log"), icon=":material/terminal:", key="job_log"):
            st.code(log, language=None, wrap_lines=True, height=300)


def plan_rows(job: Job) -> list[tuple[str, str]]:
    """By which plan the engine made it; nothing of a clip that was made before there were plans, or elsewhere."""
    rows = []
    if job.mode:
        mode = ui.t(f"form.offload_{job.mode}")
        rows.append((ui.t("clip.plan"), ui.t("clip.chosen", mode=mode) if job.brief.offload == "auto" else mode))
    if job.attention:
        rows.append((ui.t("clip.attention"), kernel_name(job.attention)))
    if job.plan:
        rows.append((ui.t("clip.plan_key"), " · ".join(job.plan.split("|"))))
    return rows


def show_clip(job: Job) -> None:
    playing, facts = st.columns([7, 4], gap="large")
    with playing:
        show_player(job)
        show_actions(job)
        show_prompt(job)
        show_frames(job)
        if job.brief.full:
            st.header(ui.t("steps.title"), anchor=False)
            ui.show_steps(job)
    with facts:
        show_settings(job)
        if job.draft.rendered:
            show_sound(job.draft.rendered)
        show_making(job)


store = ui.store()
job_id = st.query_params.get("job")
job = store.get(job_id) if job_id else None
st.page_link(ui.page("gallery"), label=ui.t("clip.to_gallery"), icon=":material/arrow_back:", help="")
if job is None:
    st.title(ui.t("clip.gone" if job_id else "clip.no_id"), anchor=False)
    st.caption(ui.t("clip.gone_hint" if job_id else "clip.no_id_hint"))
else:
    ui.tab_title(cards.title_of(job, 40))
    st.title(ui.plain(cards.title_of(job, 70)), anchor=False)
    if job.deleted_at is not None:
        show_deleted(job)
    elif job.status is Status.DONE:
        show_clip(job)
    else:
        with st.container(width=READABLE, key="on_its_way"):
            ui.show_job(job.id)
