"""What pages share: the store in force, a job on its way to a clip, and text shown as it was typed."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app.checkpoints import find_checkpoints
from app.form import in_words
from app.jobs import FIRST_FRAME, Brief, Failure, Job, Progress, Status
from app.settings import Settings, load
from app.store import JobStore
from app.worker import is_running
from app.workflow import CLIP, POSTER
from mova.layout import PLAYGROUND_NAME, CheckpointInfo
from mova.picture import PictureError, fit_picture, open_picture

LOOK_SECONDS = 1.0  # between two looks at a job on its way

# Phase -> what it is called, and its usual share of a job's time.
PHASES: dict[str, tuple[str, float]] = {
    "loading": ("Loading the model", 0.10),
    "text": ("Reading the prompt", 0.03),
    "frame": ("Preparing the first frame", 0.04),
    "denoising": ("Making picture and sound", 0.66),
    "decoding": ("Decoding", 0.14),
    "writing": ("Writing the file", 0.03),
}


def settings() -> Settings:
    """The settings in force."""
    return load()


def store() -> JobStore:
    """The jobs of the data folder in force."""
    return _store(settings().data)


@st.cache_resource
def _store(data: Path) -> JobStore:
    return JobStore(data)


@st.cache_data(ttl="5s", show_spinner=False)
def checkpoints(data: Path, named: Path | None) -> list[CheckpointInfo]:
    """The checkpoints there are; looked for every few seconds at most, as a large one has many headers."""
    return find_checkpoints(data, named)


@dataclass(frozen=True)
class Frame:
    """An upload field: the file if there is one, and either its preview or the sentence that says what is wrong."""

    upload: UploadedFile | None = None
    preview: bytes | None = None
    problem: str | None = None


def as_seen(upload: UploadedFile | None, width: int, height: int) -> Frame:
    """An uploaded picture, cropped as the model will see it."""
    if upload is None:
        return Frame()
    preview, problem = _fitted(upload.file_id, upload, width, height)
    return Frame(upload, preview, problem)


@st.cache_data(max_entries=16, show_spinner=False)
def _fitted(file_id: str, _upload: UploadedFile, width: int, height: int) -> tuple[bytes | None, str | None]:
    preview = io.BytesIO()
    try:
        fit_picture(open_picture(_upload.getvalue()), height, width).save(preview, "WEBP", quality=90)
    except PictureError as error:
        return None, str(error)
    return preview.getvalue(), None


def plain(text: str) -> str:
    """``text`` for a Markdown element, shown as it was typed."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def media_url(job: Job, name: str) -> str:
    """Where the browser finds a file of a job; absolute, as ``st.video`` takes no other."""
    return urljoin(st.context.url or "http://localhost", f"/files/{job.folder}/{name}?v={job.finished_at or 0:.0f}")


def show_job(job_id: str) -> None:
    """A job, whatever its state, and live for as long as that may change."""
    job = store().get(job_id)
    if job is None:
        with st.container(border=True, key="no_such_job"):
            st.header("This job is not here", anchor=False)
            st.caption("Its link belongs to another data folder, or it was deleted. Recent clips are below.")
        return
    with st.container(border=True, key="job"):
        if job.status.active:
            st.fragment(_live, run_every=LOOK_SECONDS)(job_id)
        elif job.status is Status.DONE:
            _show_clip(job)
        else:
            _show_end(job)


def show_playground_banner(place: DeltaGenerator, folder: Path) -> None:
    """Say plainly that this checkpoint makes noise, and where a real one goes."""
    place.info(
        "**Playground.** A tiny model with random weights: its clips are noise. They show that everything works, from "
        f"the prompt to the file. For real clips, put a MOVA checkpoint into {plain(str(folder))}.",
        icon=":material/science:",
    )


def summary(brief: Brief) -> str:
    """The numbers of a brief in one line."""
    spec = brief.spec
    return (
        f"{spec.width} × {spec.height} · {spec.num_frames} frames at {spec.fps:g} fps = {spec.duration:.2f} s · "
        f"{spec.num_inference_steps} steps"
    )


def show_nothing_yet() -> None:
    """The place where the clip will be."""
    with st.container(border=True, horizontal_alignment="center", key="nothing_yet", height=360):
        st.space("stretch")
        st.title(":material/movie:", anchor=False, text_alignment="center")
        st.markdown("**Your clip appears here**", text_alignment="center")
        st.caption("The example runs as it is: press Generate.", text_alignment="center")
        st.space("stretch")


def status_badge(status: Status) -> None:
    """A job's state in colour and words."""
    match status:
        case Status.QUEUED:
            st.badge("Queued", icon=":material/schedule:", color="gray")
        case Status.RUNNING:
            st.badge("Running", icon=":material/autorenew:", color="blue")
        case Status.DONE:
            st.badge("Done", icon=":material/check:", color="green")
        case Status.FAILED:
            st.badge("Failed", icon=":material/error:", color="red")
        case Status.CANCELLED:
            st.badge("Cancelled", icon=":material/block:", color="gray")
        case Status.INTERRUPTED:
            st.badge("Interrupted", icon=":material/power_off:", color="orange")


def _live(job_id: str) -> None:
    job = store().get(job_id)
    if job is None or not job.status.active:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        status_badge(job.status)
        st.button(
            "Cancelling …" if job.cancel else "Cancel",
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
        _show_progress(job.progress, time.time() - (job.started_at or time.time()))
    _show_prompt(job)


def _show_waiting(job: Job) -> None:
    ahead = store().ahead(job.id)
    if ahead:
        st.markdown(f"**{ahead} {'job runs' if ahead == 1 else 'jobs run'} before this one.**")
    elif is_running(store().data):
        st.markdown("**The worker takes it in a moment.**")
    else:
        logs = plain(str(store().data / "logs"))
        st.markdown(f"**No worker is running.** The studio starts one by itself; if none comes, {logs} says why.")
    st.caption("You may close this page. The address above brings you back to this job.")


def _show_progress(progress: Progress | None, elapsed: float) -> None:
    if progress is None:
        st.progress(0.0, text="Starting the engine")
        st.caption(f"{clock(elapsed)} so far")
        return
    label, _ = PHASES.get(progress.phase, (progress.phase, 0.0))
    counted = f" · step {min(progress.step + 1, progress.total)} of {progress.total}" if progress.total > 1 else ""
    st.progress(_share_done(progress), text=f"**{label}**{counted}")
    left = _seconds_left(progress)
    st.caption(f"{clock(elapsed)} so far" + (f" · about {clock(left)} left in this phase" if left is not None else ""))
    with st.container(horizontal=True, gap="small", key="phases"):
        for phase, seconds in progress.seconds.items():
            if phase != progress.phase:
                st.caption(f":material/check: {PHASES.get(phase, (phase, 0))[0]} {clock(seconds)}", width="content")


def _share_done(progress: Progress) -> float:
    """0 to 1 over the whole job."""
    names = list(PHASES)
    if progress.phase not in PHASES:
        return 0.0
    before = sum(PHASES[name][1] for name in names[: names.index(progress.phase)])
    within = PHASES[progress.phase][1] * progress.step / max(progress.total, 1)
    return min(before + within, 1.0)


def _seconds_left(progress: Progress) -> float | None:
    """What the rest of the phase takes at the pace of its finished steps; None before there is one."""
    spent = progress.seconds.get(progress.phase, 0.0)
    if progress.step < 1 or progress.step >= progress.total:
        return None
    return spent / progress.step * (progress.total - progress.step)


def _show_clip(job: Job) -> None:
    rendered = job.draft.rendered
    url = media_url(job, CLIP)
    portrait = job.brief.spec.height > job.brief.spec.width
    st.video(
        url,
        alt=f"The clip: {shorten(job.brief.prompt, 120) or 'made without a prompt'}",
        width=360 if portrait else "stretch",
    )
    if rendered is not None:
        sound = "silent" if rendered.loudness is None else f"{rendered.loudness:.1f} LUFS".replace("-", "−")
        with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key="clip_facts"):
            st.badge(f"{rendered.width} × {rendered.height}", icon=":material/aspect_ratio:", color="gray")
            st.badge(f"{rendered.duration:.2f} s", icon=":material/timer:", color="gray")
            st.badge(sound, icon=":material/graphic_eq:", color="gray", help="Integrated loudness, EBU R128")
            st.badge(f"Seed {job.brief.spec.seed}", icon=":material/casino:", color="gray")
            st.space("stretch")
            st.link_button("Download", f"{url}&download", icon=":material/download:", key="download")
        if _is_playground(job):
            st.caption(":material/science: Made by the playground, whose weights are random: the clip is noise.")
        for note in rendered.notes:
            st.caption(f":material/info: {plain(note)}")
    _show_prompt(job)
    with st.expander("All settings", icon=":material/tune:", key="clip_settings"):
        _show_settings(job)


def _is_playground(job: Job) -> bool:
    return Path(job.brief.checkpoint).name == PLAYGROUND_NAME


def _show_settings(job: Job) -> None:
    for name, value in in_words(job.brief).items():
        st.markdown(f"**{name}** {plain(value)}")
    if job.progress and job.started_at and job.finished_at:
        st.markdown(f"**Time** {clock(job.finished_at - job.started_at)}")


def _show_end(job: Job) -> None:
    status_badge(job.status)
    if job.failure:
        _show_failure(job.failure)
    else:
        st.markdown("**Cancelled.** Nothing was made.")
    st.button(
        "Try again",
        key="retry",
        icon=":material/replay:",
        type="primary" if job.status is not Status.CANCELLED else "secondary",
        help="The same settings and the same seed.",
        on_click=store().requeue,
        args=(job.id,),
    )
    if job.failure and job.failure.details:
        with st.expander("Details", icon=":material/bug_report:", key="failure_details"):
            st.code(job.failure.details, language=None, wrap_lines=True)
    _show_prompt(job)


def _show_failure(failure: Failure) -> None:
    st.error(f"**{plain(failure.sentence)}**\n\n{plain(failure.remedy)}", icon=":material/error:")


def _show_prompt(job: Job) -> None:
    with st.container(horizontal=True, wrap=False, gap="small", key="job_prompt"):
        if job.draft.first_frame:
            st.image(media_url(job, FIRST_FRAME), width=96, alt="The first frame")
        st.caption(plain(shorten(job.brief.prompt, 400)) or "*No prompt*", width="stretch")


def show_recent(limit: int) -> None:
    """The jobs submitted last, as a short list that opens them."""
    jobs = store().history(limit)
    if not jobs:
        return
    st.header("Recent", anchor=False)
    for job in jobs:
        with st.container(horizontal=True, wrap=False, vertical_alignment="center", key=f"recent_{job.id}"):
            with st.container(width=112, key=f"recent_state_{job.id}"):
                if job.status is Status.DONE:
                    st.image(media_url(job, POSTER), width="stretch", alt="")
                else:
                    status_badge(job.status)
            made_of_noise = "*Playground, noise* · " if job.draft.clip and _is_playground(job) else ""
            st.caption(made_of_noise + (plain(shorten(job.brief.prompt, 80)) or "*No prompt*"), width="stretch")
            st.button("Open", key=f"open_{job.id}", type="tertiary", on_click=open_job, args=(job.id,))


def open_job(job_id: str) -> None:
    """Show this job, now and after a reload: its id goes into the address."""
    st.query_params["job"] = job_id


def shorten(text: str, length: int) -> str:
    """The beginning of ``text`` in one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def clock(seconds: float) -> str:
    """A duration for people: 8 s, 1:05 min, 2:03 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
