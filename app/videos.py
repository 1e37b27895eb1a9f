"""Videos as programs see them: an ask made a brief, and a job made the object that their clients read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.apierrors import ApiError
from app.ask import FULL_ONLY, Ask, Sent
from app.checkpoints import on_servers
from app.form import Form, compose, length_of, level, too_long
from app.jobs import FIRST_FRAME, LAST_FRAME, LOCAL, SGLANG, Brief, Job, Status
from app.servers import MODELS
from app.settings import Settings
from mova.layout import CheckpointInfo
from mova.spec import MAX_SIZE, SIZE_MULTIPLE, ClipSpec

STAND_INS = re.compile(r"sora-[\w.-]+")  # what OpenAI's clients name; taken as "the one that there is"
AFTER_STEPS = ("decoding", "fetching", "writing")

STATUS = {
    Status.QUEUED: "queued",
    Status.RUNNING: "in_progress",
    Status.REVIEW: "in_progress",
    Status.DONE: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "failed",
    Status.INTERRUPTED: "failed",
}


def brief_of(
    ask: Ask, sent: Sent, checkpoints: Sequence[CheckpointInfo], settings: Settings
) -> tuple[Brief, list[str]]:
    """What is to be made, and what the program should know of how its ask was taken.

    Raises:
        ApiError: it can't be made; one sentence for each reason.
    """
    _check_engine(ask.engine, settings)
    checkpoint, notes = _checkpoint(ask, checkpoints)
    notes += _unheeded(ask, sent)
    width, height = _asked_size(ask) or checkpoint.sizes[0]
    form = _form(ask, checkpoint, settings, "portrait" if height > width else "landscape")
    form = replace(
        form,
        first_frame=FIRST_FRAME if "input_reference" in sent.pictures else None,
        last_frame=LAST_FRAME if "last_frame" in sent.pictures else None,
    )
    brief = compose(form, data=settings.data, endpoints=settings.providers)
    if not isinstance(brief, Brief):
        raise ApiError(400, "\n".join(brief), code="invalid_value")
    spec, said = _sized(brief.spec, (width, height), ask.engine)
    long = None if brief.full else too_long(brief.prompt)
    return brief.model_copy(update={"spec": spec}), [*notes, *said, *filter(None, (long,))]


def video(
    job: Job, *, remix_of: str | None = None, position: int | None = None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The job as OpenAI's and SGLang's clients read it, and beside that as the studio knows it.

    ``status`` has no more words than OpenAI's; ``state`` is the studio's own. ``seconds`` is a rounded text, as theirs.
    """
    spec = job.brief.spec
    return {
        "id": job.id,
        "object": "video",
        "model": job.checkpoint_name,
        "status": STATUS[job.status],
        "progress": _percent(job),
        "created_at": int(job.created_at),
        "completed_at": int(job.finished_at) if job.status is Status.DONE and job.finished_at else None,
        "expires_at": None,
        "error": _error(job),
        "prompt": job.draft.prompt or job.brief.prompt,
        "remixed_from_video_id": remix_of,
        "size": f"{spec.width}x{spec.height}",
        "seconds": str(round(spec.duration)),
        "state": "cancelling" if job.cancel and job.status is Status.RUNNING else job.status.value,
        "phase": job.progress.phase if job.progress and job.status is Status.RUNNING else None,
        "queue_position": position,
        "duration": spec.duration,
        "num_frames": spec.num_frames,
        "fps": spec.fps,
        "seed": spec.seed,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "negative_prompt": spec.negative_prompt,
        "workflow": "full" if job.brief.full else "simple",
        "engine": job.brief.engine,
        "preset": job.brief.preset,
        "inference_time_s": job.seconds if job.status is Status.DONE else None,
        "notes": [*notes, *(job.draft.rendered.notes if job.draft.rendered else ())],
    }


def model(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """A checkpoint as an entry of ``/v1/models``."""
    spec = checkpoint.default_spec
    return {
        "id": checkpoint.path.name,
        "object": "model",
        "created": 0,
        "owned_by": "OpenMOSS",
        "sizes": [f"{width}x{height}" for width, height in checkpoint.sizes],
        "num_frames": spec.num_frames,
        "fps": spec.fps,
        "num_inference_steps": spec.num_inference_steps,
        "problems": list(checkpoint.problems),
    }


def named(wanted: str, checkpoints: Sequence[CheckpointInfo]) -> CheckpointInfo | None:
    """The checkpoint of that name, with or without its owner before it."""
    name = wanted.rsplit("/", 1)[-1].casefold()
    return next((each for each in checkpoints if name in (each.path.name.casefold(), each.name.casefold())), None)


def _check_engine(engine: str, settings: Settings) -> None:
    server = engine.partition(":")[2]
    if engine == LOCAL or (settings.sglang if engine == SGLANG else server in settings.sglang):
        return
    known = ", ".join(settings.sglang) or "none"
    raise ApiError(
        400,
        f"There is no server for engine {engine!r}; servers: {known}. Set STUDIO_SGLANG__NAME__BASE_URL, "
        "or use the engine local.",
        param="engine",
        code="engine_not_found",
    )


def _checkpoint(ask: Ask, found: Sequence[CheckpointInfo]) -> tuple[CheckpointInfo, list[str]]:
    """Which weights, by name or by default; servers have their own."""
    offered = list(found)
    if ask.engine != LOCAL:
        here = [each.name for each in found if each.name in MODELS]
        offered = [on_servers(name) for name in dict.fromkeys((*here, *MODELS))]
    usual = next((each for each in offered if not each.problems), offered[0])
    if ask.model is None:
        return usual, []
    if checkpoint := named(ask.model, offered):
        return checkpoint, []
    if STAND_INS.fullmatch(ask.model):
        return usual, [f"{ask.model} is no model of this studio; {usual.path.name} makes it."]
    names = ", ".join(each.path.name for each in offered)
    raise ApiError(400, f"There is no model {ask.model!r}. There are: {names}.", param="model", code="model_not_found")


def _unheeded(ask: Ask, sent: Sent) -> list[str]:
    """What was sent and changes nothing."""
    notes = []
    if sent.unused:
        notes.append(f"Not known here, and left alone: {', '.join(name[:50] for name in sent.unused[:20])}.")
    if ask.workflow == "simple" and (idle := [name for name in FULL_ONLY if name in sent.fields]):
        notes.append(f"Only workflow=full uses: {', '.join(idle)}.")
    return notes


def _asked_size(ask: Ask) -> tuple[int, int] | None:
    if ask.size is None:
        return None
    width, height = map(int, re.split(r"\D", ask.size))
    if min(width, height) < 1:
        raise ApiError(400, f"size {ask.size} has no pixels.", param="size", code="invalid_value")
    return width, height


def _sized(spec: ClipSpec, asked: tuple[int, int], engine: str) -> tuple[ClipSpec, list[str]]:
    """The size that was asked for, if it can be made; or else, said so, the checkpoint's own of that orientation.

    A server makes its model's two sizes only. Here it may be any of whole blocks of 16.
    """
    if asked == (spec.width, spec.height):
        return spec, []
    sized = dict(zip(("width", "height"), asked, strict=True))
    usable = all(0 < pixels <= MAX_SIZE and pixels % SIZE_MULTIPLE == 0 for pixels in asked)
    if engine == LOCAL and usable:
        return spec.model_copy(update=sized), []
    width, height = asked
    return spec, [f"{width}x{height} can't be made as it is; it is made as {spec.width}x{spec.height}."]


def _form(ask: Ask, checkpoint: CheckpointInfo, settings: Settings, orientation: Any) -> Form:
    """The ask as the Create form would hold it."""
    full = ask.workflow == "full"
    given: Mapping[str, Any] = {
        "seconds": ask.seconds,
        "quality": ask.quality,
        "guidance_scale": ask.guidance_scale,
        "bridge_guidance_scale": ask.bridge_guidance_scale,
        "negative_prompt": ask.negative_prompt,
    }
    loudness = settings.loudness if ask.loudness is None else ask.loudness
    return Form(
        checkpoint,
        engine=ask.engine,
        **{"seconds": length_of(checkpoint)} | {name: value for name, value in given.items() if value is not None},
        mode=ask.workflow,
        prompt="" if full else ask.prompt,
        idea=ask.prompt if full else "",
        orientation=orientation,
        num_frames=ask.num_frames,
        steps=ask.num_inference_steps,
        fps=ask.fps,
        video_shift=ask.video_shift,
        audio_shift=ask.audio_shift,
        seed="" if ask.seed is None else str(ask.seed),
        offload=ask.offload or (settings.offload if ask.engine == LOCAL else "auto"),
        preset=ask.preset or (settings.preset if ask.engine == LOCAL else "exact"),
        loudness=level(loudness),
        first_frame_position=ask.first_frame_position,
        last_frame_position=ask.last_frame_position,
        models=ask.models,
        lines=ask.dialogue,
        effects=ask.effects,
        ambience=ask.ambience,
        music=ask.music,
        no_music=ask.no_music,
        painted=ask.painted,
        candidates=ask.candidates,
        review=bool(ask.review),
        review_steps=ask.review,
    )


def _percent(job: Job) -> int:
    """By denoising steps, as SGLang's newest release tells it: 0 before, 99 after the last."""
    if job.status is Status.DONE:
        return 100
    progress = job.progress
    if progress is None or progress.phase not in ("denoising", *AFTER_STEPS):
        return 0
    return 99 if progress.phase in AFTER_STEPS else min(99 * progress.step // max(progress.total, 1), 99)


def _error(job: Job) -> dict[str, Any] | None:
    if STATUS[job.status] != "failed":
        return None
    if job.failure:
        return {"code": job.failure.kind.value, "message": f"{job.failure.sentence} {job.failure.remedy}"}
    return {"code": job.status.value, "message": "It was cancelled."}
