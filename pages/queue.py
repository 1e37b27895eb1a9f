"""Queue: what runs and what waits, how long still, and in which order; what ended without a clip."""

import time
from typing import get_args

import streamlit as st

from app import cards, ui
from app.jobs import Job, Mode, Place, Status, Wanted
from app.worker import is_running

LOOK_SECONDS = 2.0
SHOWN = 30  # of a long queue; the rest is counted
ENDED = Wanted(states=(Status.FAILED, Status.INTERRUPTED, Status.CANCELLED))
ENDED_SHOWN = 6
TURN = Wanted(states=(Status.REVIEW,))
TURNS_SHOWN = 6
ICONS = {"first": "vertical_align_top", "up": "arrow_upward", "down": "arrow_downward", "last": "vertical_align_bottom"}


@st.fragment(run_every=LOOK_SECONDS)
def show_queue() -> None:
    jobs, mode, now = store.queue(), store.mode(), time.time()
    name_tab(jobs)
    show_turns()
    show_controls(mode, any(job.status is Status.RUNNING for job in jobs))
    if jobs:
        finish = store.finish_times(now)
        show_whole(jobs, mode, finish.get(jobs[-1].id))
        if mode is not Mode.PAUSED and not is_running(store.data):
            st.warning(ui.t("queue.no_worker"), icon=":material/power_off:")
        waiting = [job.id for job in jobs if job.status is Status.QUEUED]
        for job in jobs[:SHOWN]:
            show_job(job, waiting, finish.get(job.id), mode, now)
        if len(jobs) > SHOWN:
            st.caption(ui.t("queue.more", count=len(jobs) - SHOWN), text_alignment="center")
    else:
        create = ("to_create", ui.t("queue.to_create"), "movie_edit", cards.going("create"))
        cards.show_empty("inbox", ui.t("queue.empty"), ui.t("queue.empty_hint"), create)
    show_ended()


def name_tab(jobs: list[Job]) -> None:
    """The browser's tab says how far the running job is, or how many wait."""
    first = jobs[0] if jobs else None
    if first is None:
        ui.tab_title(ui.t("nav.queue"))
    elif first.status is Status.RUNNING:
        ui.tab_title(ui.t("queue.tab", percent=round(100 * ui.share_done(first.progress, first.brief.steps))))
    else:
        ui.tab_title(ui.t("queue.tab_waiting", count=len(jobs)))


def show_controls(mode: Mode, busy: bool) -> None:
    """What the queue is doing, in words, and the buttons that change it."""
    icons = {Mode.RUNNING: "play_circle", Mode.FINISHING: "hourglass_bottom", Mode.PAUSED: "pause_circle"}
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="queue_mode"
    ):
        st.markdown(f":material/{icons[mode]}: {ui.t(f'queue.mode_{mode}')}", width="content")
        with st.container(horizontal=True, width="content", gap="small", key="queue_controls"):
            if mode is not Mode.RUNNING:
                st.button(
                    ui.t("queue.resume"),
                    key="resume",
                    icon=":material/play_arrow:",
                    type="primary",
                    on_click=store.resume,
                )
            if mode is Mode.RUNNING:
                st.button(
                    ui.t("queue.pause_after"),
                    key="pause_after",
                    icon=":material/hourglass_bottom:",
                    help=ui.t("queue.pause_after_help"),
                    disabled=not busy,
                    on_click=store.pause_after,
                )
            if mode is not Mode.PAUSED:
                st.button(
                    ui.t("queue.pause_now"),
                    key="pause_now",
                    icon=":material/pause:",
                    help=ui.t("queue.pause_now_help"),
                    on_click=store.pause_now,
                )


def show_whole(jobs: list[Job], mode: Mode, finish: float | None) -> None:
    """How many there are, and when the last of them is done."""
    running = sum(job.status is Status.RUNNING for job in jobs)
    words = [ui.t("queue.count", running=running, waiting=len(jobs) - running)]
    if mode is Mode.RUNNING:
        words.append(ui.t("queue.all_done", time=ui.when(finish)) if finish else ui.t("queue.all_done_unknown"))
    st.caption(" · ".join(words))


def show_job(job: Job, waiting: list[str], finish: float | None, mode: Mode, now: float) -> None:
    with st.container(border=True, key=f"job_{job.id}"):
        with st.container(horizontal=True, key=f"row_{job.id}"):
            with st.container(width=128, key=f"picture_{job.id}"):
                cards.poster(job, f"poster_{job.id}")
            with st.container(width="stretch", gap="xxsmall", key=f"words_{job.id}"):
                st.markdown(f"**{ui.plain(cards.title_of(job))}**")
                st.caption(f"{ui.summary(job.brief)} · {ui.t('job.seed', seed=job.brief.spec.seed)}")
                if job.status is Status.RUNNING:
                    show_progress(job, finish, now)
                else:
                    show_waiting(job, waiting.index(job.id) + 1, finish if mode is Mode.RUNNING else None)
            show_actions(job, waiting)
        if job.silent(now) > ui.settings().watchdog_minutes * 60:
            show_hang(job, now)


def show_progress(job: Job, finish: float | None, now: float) -> None:
    progress = job.progress
    words = ui.t("job.starting")
    if progress is not None:
        words = f"**{ui.phase_name(progress.phase)}**"
        if progress.total > 1:
            step = min(progress.step + 1, progress.total)
            words += " · " + ui.t("job.step", step=step, total=progress.total)
    st.progress(ui.share_done(progress, job.brief.steps), text=words)
    elapsed = ui.t("queue.elapsed", time=ui.clock(now - (job.started_at or now)))
    st.caption(f"{elapsed} · {done_at(finish, now)}")


def show_waiting(job: Job, place: int, finish: float | None) -> None:
    words = [ui.t("queue.place", place=place), ui.t("queue.waiting_since", time=ui.ago(job.created_at))]
    if finish is not None:
        words.append(ui.t("queue.done_at", time=ui.when(finish)))
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"state_{job.id}"):
        ui.status_badge(job.status)
        st.caption(" · ".join(words), width="content")


def done_at(finish: float | None, now: float) -> str:
    if finish is None:
        return ui.t("queue.done_at_unknown")
    return ui.t("job.eta", time=ui.when(finish), left=ui.clock(max(finish - now, 0)))


def show_actions(job: Job, waiting: list[str]) -> None:
    with st.container(horizontal=True, width="content", gap="xsmall", key=f"actions_{job.id}"):
        if job.id in waiting and len(waiting) > 1:
            st.menu_button(
                ui.t("queue.move"),
                get_args(Place),
                format_func=lambda place: f":material/{ICONS[place]}: {ui.t(f'queue.move_{place}')}",
                key=f"move_{job.id}",
                icon=":material/swap_vert:",
                type="tertiary",
                on_click=move,
                args=(job.id,),
            )
        st.button(
            ui.t("queue.cancelling") if job.cancel else ui.t("queue.cancel"),
            key=f"cancel_{job.id}",
            icon=":material/close:",
            type="tertiary",
            disabled=job.cancel,
            on_click=store.cancel,
            args=(job.id,),
        )


def move(job_id: str) -> None:
    store.move(job_id, st.session_state[f"move_{job_id}"])


def show_hang(job: Job, now: float) -> None:
    """The worker has said nothing for long: that is told, and there is a button that ends it."""
    with st.container(key="hung"):
        st.warning(ui.t("queue.hung", time=ui.clock(job.silent(now))), icon=":material/hourglass_disabled:")
        if st.session_state.get("worker_ended_in") == job.id:
            st.caption(ui.t("queue.ending_worker"))
            return
        st.button(
            ui.t("queue.end_worker"),
            key="end_worker",
            icon=":material/stop_circle:",
            help=ui.t("queue.end_worker_help"),
            on_click=end_worker,
            args=(job.id,),
        )


def end_worker(job_id: str) -> None:
    store.end_worker()
    st.session_state.worker_ended_in = job_id


def show_turns() -> None:
    """What waits for its creator before it goes on."""
    found = store.find(TURN, per_page=TURNS_SHOWN)
    if not found.jobs:
        return
    st.header(ui.t("queue.turn"), icon=":material/rate_review:", anchor=False)
    for job in found.jobs:
        with st.container(horizontal=True, vertical_alignment="center", border=True, key=f"turn_{job.id}"):
            with st.container(width=128, key=f"turn_picture_{job.id}"):
                cards.poster(job, f"turn_poster_{job.id}")
            with st.container(width="stretch", gap="xxsmall", key=f"turn_words_{job.id}"):
                st.markdown(f"**{ui.plain(cards.title_of(job))}**")
                words = [ui.turn_of(job), *([ui.t("queue.turn_stale")] if job.draft.stale else [])]
                st.caption(" · ".join((*words, ui.ago(job.finished_at or job.created_at))))
            show_link(job)
            if not job.draft.stale:
                st.button(
                    ui.t("queue.continue"),
                    key=f"continue_{job.id}",
                    icon=":material/play_arrow:",
                    on_click=store.go_on,
                    args=(job.id,),
                )
            st.button(
                ui.t("queue.cancel"),
                key=f"cancel_{job.id}",
                icon=":material/close:",
                type="tertiary",
                on_click=store.cancel,
                args=(job.id,),
            )
    if found.total > len(found.jobs):
        st.caption(ui.t("queue.more_turns", count=found.total - len(found.jobs)), text_alignment="center")


def show_ended() -> None:
    """What came to no clip lately, with the way to try it again."""
    ended = store.find(ENDED, per_page=ENDED_SHOWN).jobs
    if not ended:
        return
    st.header(ui.t("queue.ended"), anchor=False)
    for job in ended:
        with st.container(horizontal=True, vertical_alignment="center", border=True, key=f"ended_{job.id}"):
            with st.container(width="stretch", gap="xxsmall", key=f"ended_words_{job.id}"):
                st.markdown(ui.plain(cards.title_of(job)))
                with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"why_{job.id}"):
                    ui.status_badge(job.status)
                    st.caption(why(job), width="content")
            show_link(job)
            st.button(
                ui.t("queue.retry_interrupted" if job.status is Status.INTERRUPTED else "queue.retry"),
                key=f"retry_{job.id}",
                icon=":material/replay:",
                help=ui.t("queue.retry_help"),
                on_click=store.requeue,
                args=(job.id,),
            )


def show_link(job: Job) -> None:
    st.page_link(
        ui.page("clip"), label=ui.t("queue.open"), icon="", query_params={"job": job.id}, width="content", help=""
    )


def why(job: Job) -> str:
    moment = ui.ago(job.finished_at or job.created_at)
    return f"{ui.t(f'failure.{job.failure.kind}')} · {moment}" if job.failure else moment


store = ui.store()
st.title(ui.t("nav.queue"), anchor=False)
st.caption(ui.t("queue.about"))
show_queue()
