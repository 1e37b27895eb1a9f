"""What pages share: everything of the desk and the language, and how a job is shown, whatever its state."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.desk import (
    checkpoints,
    current_form,
    fill_form,
    finish_time,
    go,
    keep_pages,
    make_another,
    media_url,
    open_job,
    page,
    settings,
    store,
    use_frame,
)
from app.failures import show_failure, told
from app.form import in_words
from app.jobs import Job, Mode, Progress, Status, Step
from app.language import (
    ago,
    clock,
    language,
    language_switch,
    plain,
    shorten,
    status_badge,
    summary,
    t,
    t_said,
    took,
    when,
)
from app.steps import as_simple
from app.timeline import show_steps, show_turn, step_name, turn_of
from app.wording import show_text
from app.worker import is_running
from app.workflow import CLIP, POSTER
from mova.layout import PLAYGROUND_NAME

__all__ = [
    "ago",
    "as_simple",
    "checkpoints",
    "clock",
    "current_form",
    "eta_text",
    "fill_form",
    "finish_time",
    "go",
    "is_playground",
    "keep_pages",
    "language",
    "language_switch",
    "make_another",
    "media_url",
    "open_job",
    "page",
    "phase_name",
    "plain",
    "settings",
    "share_done",
    "shorten",
    "show_failure",
    "show_job",
    "show_nothing_yet",
    "show_playground_banner",
    "show_recent",
    "show_steps",
    "show_text",
    "status_badge",
    "store",
    "summary",
    "t",
    "t_said",
    "tab_title",
    "told",
    "took",
    "turn_of",
    "use_frame",
    "when",
]

LOOK_SECONDS = 1.0  # between two looks at a job on its way

AGENTS_SHARE = 0.25  # of a job's time that its agents take together, if it has any
# Phase of the engine -> its usual share of the engine's time, for as long as none was measured.
REMOTE_PHASES = ("waiting", "remote", "fetching")  # of a server: in its queue; at work, not telling how far; its clip
PHASES = {
    "loading": 0.10,
    "text": 0.03,
    "frame": 0.04,
    "denoising": 0.66,
    "decoding": 0.14,
    "fetching": 0.0,  # which only a server's clips have
    "writing": 0.03,
}


def show_job(job_id: str) -> None:
    """A job, whatever its state, and live for as long as that may change."""
    job = store().get(job_id)
    if job is None:
        with st.container(border=True, key="no_such_job"):
            st.header(t("job.not_here"), anchor=False)
            st.caption(t("job.not_here_why"))
        return
    if job.status.active:
        st.fragment(_live, run_every=LOOK_SECONDS)(job_id)
        return
    with st.container(border=True, key="job"):
        if job.status is Status.DONE:
            _show_clip(job)
        elif job.status is Status.REVIEW:
            _show_review(job)
        else:
            _show_end(job)
    if job.brief.full and job.status is Status.DONE:
        with st.expander(t("steps.made"), icon=":material/account_tree:", key="how_it_was_made"):
            show_steps(job)
    elif job.brief.full:
        show_steps(job)


def eta_text(job: Job) -> str:
    """When an active job will be done, or that this is not known yet; nothing for any other."""
    if not job.status.active:
        return ""
    finish = finish_time(job)
    if finish is None:
        return t("job.eta_unknown")
    return t("job.eta", time=when(finish), left=clock(max(finish - time.time(), 0)))


def tab_title(words: str) -> None:
    """What the browser's tab says before the studio's name."""
    st.set_page_config(page_title=f"{words} · MOVA Studio")


def is_playground(job: Job) -> bool:
    """Whether the clip is made of noise."""
    return Path(job.brief.checkpoint).name == PLAYGROUND_NAME


def share_done(progress: Progress | None, steps: tuple[Step, ...] = ()) -> float:
    """0 to 1 over the whole job, which begins with these steps of agents."""
    engine = 1 - AGENTS_SHARE if steps else 1.0
    shares = {step.value: AGENTS_SHARE / len(steps) for step in steps}
    shares |= {phase: share * engine for phase, share in PHASES.items()}
    if progress is None or progress.phase not in shares:
        return 0.0
    names = list(shares)
    before = sum(shares[name] for name in names[: names.index(progress.phase)])
    return min(before + shares[progress.phase] * progress.step / max(progress.total, 1), 1.0)


def phase_name(phase: str) -> str:
    """What is done in that phase of the engine or in that step of an agent."""
    known = phase in PHASES or phase in REMOTE_PHASES or phase in set(Step)
    return t(f"job.{phase}") if known else phase


def show_playground_banner(place: DeltaGenerator, folder: Path) -> None:
    """Say plainly that this checkpoint makes noise, and where a real one goes."""
    place.info(t("common.playground", folder=plain(str(folder))), icon=":material/science:")


def show_nothing_yet(*, example: bool) -> None:
    """The place where the clip will be; ``example``: what the form holds runs as it is."""
    with st.container(border=True, horizontal_alignment="center", key="nothing_yet", height=360):
        st.space("stretch")
        st.header(t("job.nothing_yet"), icon=":material/movie:", anchor=False, text_alignment="center")
        st.caption(t("job.nothing_yet_why" if example else "job.nothing_yet_own"), text_alignment="center")
        st.space("stretch")


def show_recent(limit: int, but: str | None = None) -> None:
    """The jobs submitted last, as a short list that opens them; without the one that is shown already."""
    jobs = [job for job in store().history(limit + 1) if job.id != but][:limit]
    if not jobs:
        return
    st.header(t("job.recent"), anchor=False)
    for job in jobs:
        with st.container(horizontal=True, wrap=False, vertical_alignment="center", key=f"recent_{job.id}"):
            with st.container(width=112, key=f"recent_state_{job.id}"):
                if job.status is Status.DONE:
                    st.image(media_url(job, POSTER), width="stretch", alt="")
                else:
                    status_badge(job.status)
            noise = f"*{t('job.noise')}* · " if job.draft.clip and is_playground(job) else ""
            st.caption(noise + _prompt(job, 80), width="stretch")
            st.button(t("job.open"), key=f"open_{job.id}", type="tertiary", on_click=open_job, args=(job.id,))


def _live(job_id: str) -> None:
    job = store().get(job_id)
    if job is None or not job.status.active:
        st.rerun()
    with st.container(border=True, key="job"):
        _show_way(job)
    if job.brief.full:
        show_steps(job)


def _show_way(job: Job) -> None:
    """How far a job is that waits or runs."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        status_badge(job.status)
        st.button(
            t("job.cancelling") if job.cancel else t("job.cancel"),
            key="cancel",
            icon=":material/close:",
            type="tertiary",
            disabled=job.cancel,
            on_click=store().cancel,
            args=(job.id,),
        )
    if job.status is Status.QUEUED:
        _show_waiting(job)
    else:
        _show_progress(job)
    _show_prompt(job)


def _show_waiting(job: Job) -> None:
    ahead, mode = store().ahead(job.id), store().mode()
    tab_title(t("common.queued"))
    if mode is not Mode.RUNNING:
        st.markdown(f"**{t(f'job.{mode}')}** {t('job.paused_why')}")
        st.button(t("job.resume"), key="resume", icon=":material/play_arrow:", on_click=store().resume)
    elif ahead:
        st.markdown(f"**{t('job.one_ahead') if ahead == 1 else t('job.ahead', count=ahead)}**")
    elif is_running(store().data):
        st.markdown(f"**{t('job.taken_soon')}**")
    else:
        st.markdown(f"**{t('job.no_worker')}** {t('job.no_worker_why', logs=plain(str(store().data / 'logs')))}")
    st.caption(f"{eta_text(job)}  \n{t('job.may_close')}")


def _show_progress(job: Job) -> None:
    progress, now = job.progress, time.time()
    done = share_done(progress, job.brief.steps)
    tab_title(f"{done:.0%}")
    elapsed = t("job.so_far", time=clock(now - (job.started_at or now)))
    if progress is None:
        st.progress(0.0, text=t("job.starting"))
        st.caption(f"{elapsed} · {eta_text(job)}")
        _show_hang(job, now)
        return
    counted = progress.total > 1
    step = t("job.step", step=min(progress.step + 1, progress.total), total=progress.total) if counted else ""
    st.progress(done, text=f"**{phase_name(progress.phase)}**" + (f" · {step}" if step else ""))
    st.caption(f"{elapsed} · {eta_text(job)}")
    with st.container(horizontal=True, gap="small", key="phases"):
        for phase, seconds in progress.seconds.items():
            if phase != progress.phase:
                st.caption(f":material/check: {phase_name(phase)} {clock(seconds)}", width="content")
    if store().mode() is Mode.FINISHING:
        st.caption(f":material/pause: {t('job.finishing')}")
    _show_hang(job, now)


def _show_hang(job: Job, now: float) -> None:
    """Say that nothing was heard of the job for long, and offer to end its worker."""
    silent = job.silent(now)
    if silent < settings().watchdog_minutes * 60:
        return
    st.warning(t("job.hung", time=clock(silent)), icon=":material/hourglass_disabled:")
    ending = st.session_state.get("ending") == job.id
    st.button(
        t("job.ending_worker") if ending else t("job.end_worker"),
        key="end_worker",
        icon=":material/stop_circle:",
        disabled=ending,
        on_click=_end_worker,
        args=(job.id,),
    )


def _end_worker(job_id: str) -> None:
    st.session_state.ending = job_id
    store().end_worker()


def _show_clip(job: Job) -> None:
    rendered = job.draft.rendered
    url = media_url(job, CLIP)
    portrait = job.brief.spec.height > job.brief.spec.width
    st.video(url, alt=t("job.clip_of", prompt=_prompt(job, 120)), width=360 if portrait else "stretch")
    if rendered is not None:
        sound = t("job.silent") if rendered.loudness is None else f"{rendered.loudness:.1f} LUFS".replace("-", "−")
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key="clip_facts"):
            st.badge(f"{rendered.width} × {rendered.height}", icon=":material/aspect_ratio:", color="gray")
            duration = t("common.seconds", seconds=f"{rendered.duration:.2f}")
            st.badge(duration, icon=":material/timer:", color="gray")
            st.badge(sound, icon=":material/graphic_eq:", color="gray", help=t("job.loudness_help"))
            seed = t("job.seed", seed=job.brief.spec.seed)
            st.badge(seed, icon=":material/casino:", color="gray")
        if is_playground(job):
            st.caption(f":material/science: {t('job.made_of_noise')}")
        for note in rendered.notes:
            st.caption(f":material/info: {plain(t_said(note))}")
    _show_clip_actions(job, url)
    _show_prompt(job)
    with st.expander(t("job.all_settings"), icon=":material/tune:", key="clip_settings"):
        for name, value in in_words(job.brief, language()).items():
            st.markdown(f"**{name}** {plain(value)}")
        if job.started_at and job.finished_at:
            st.markdown(f"**{t('job.time')}** {clock(job.finished_at - job.started_at)}")


def _show_clip_actions(job: Job, url: str) -> None:
    with st.container(horizontal=True, gap="xsmall", key="clip_actions"):
        st.link_button(t("job.download"), f"{url}&download", icon=":material/download:", key="download")
        st.button(
            t("job.another"),
            key="another",
            icon=":material/replay:",
            help=t("job.another_help"),
            on_click=make_another,
            args=(job,),
        )
        st.button(
            t("job.go_on"),
            key="go_on",
            icon=":material/last_page:",
            help=t("job.go_on_help"),
            on_click=use_frame,
            args=(job, "last"),
        )


def _show_review(job: Job) -> None:
    tab_title(t("common.review"))
    show_turn(job)
    _show_prompt(job)


def _show_end(job: Job) -> None:
    status_badge(job.status)
    failed = job.failure.step if job.failure else None
    if failed:
        st.markdown(t("steps.stopped", step=step_name(failed)))  # its card says why, and has the remedies
    elif job.failure:
        show_failure(job)
    else:
        st.markdown(t("job.cancelled_kept") if job.brief.full else t("job.cancelled"))
        if job.draft.remote:
            st.caption(t("job.cancelled_remote", server=plain(job.draft.remote.server)))
        st.button(
            t("failure.do_retry"),
            key=f"retry_{job.id}",
            icon=":material/replay:",
            help=t("job.retry_help"),
            on_click=store().requeue,
            args=(job.id,),
        )
    _show_prompt(job)


def _prompt(job: Job, length: int) -> str:
    return plain(shorten(job.brief.prompt, length)) or f"*{t('common.no_prompt')}*"


def _show_prompt(job: Job) -> None:
    with st.container(horizontal=True, wrap=False, gap="small", key="job_prompt"):
        if job.draft.first_frame:
            st.image(media_url(job, Path(job.draft.first_frame).name), width=96, alt=t("job.first_frame_alt"))
        st.caption(_prompt(job, 400), width="stretch")
