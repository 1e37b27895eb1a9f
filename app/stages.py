"""The stages, in their order: what agents do for a clip, one function a step, and rendering."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from agents import elements, first_frame, rewriter
from agents.checker import Asked, check
from agents.elements import Elements
from agents.models import Endpoint, Model, Painted, Written, address_of, split
from agents.troubles import AgentError
from app.agency import attend, problems
from app.jobs import BLANKS, CENTRE, Brief, Draft, Job, Position, Step, Version
from app.workflow import Context, Stage, render
from mova.picture import fit_picture, open_picture
from mova.spec import MAX_SEED

MOST_ACROSS = 2048  # pixels, of a picture that is shown to a model or kept of one

Result = TypeVar("Result")


class StepError(Exception):
    """An agent's step failed; the cause is what it failed of."""

    def __init__(self, step: Step, cause: AgentError) -> None:
        super().__init__(str(cause))
        self.step = step
        self.cause = cause


def check_models(job: Job, endpoints: Mapping[str, Endpoint]) -> None:
    """See that every model which this job still needs can be used, before the first of them is paid.

    Raises:
        StepError: one can't.
    """
    for step, error in problems(job.brief, endpoints).items():
        if not _is_done(step, job.brief, job.draft) or (step is Step.IMAGE_PROMPT and _is_to_shorten(job, endpoints)):
            raise StepError(step, error)


def _is_done(step: Step, brief: Brief, draft: Draft) -> bool:
    needless = step is Step.IMAGE_PROMPT and draft.first_frame is not None  # the creator has brought a picture
    return needless or step not in brief.steps or draft.of(step) is not None


def _is_to_shorten(job: Job, endpoints: Mapping[str, Endpoint]) -> bool:
    """Whether the image prompt has to be written once more, as the painter takes less."""
    if job.brief.full is None or job.draft.first_frame is not None:
        return False
    longest = address_of(split(job.brief.full.models[Step.FIRST_FRAME])[0], endpoints).longest
    return longest is not None and len(job.draft.image_prompt or "") > longest


def _stage(step: Step, run: Callable[[Brief, Draft, Context], Draft]) -> Stage:
    def filled(brief: Brief, draft: Draft, context: Context) -> Draft:
        try:
            return run(brief, draft, context)
        except AgentError as error:
            raise StepError(step, error) from error

    return Stage(step, partial(_is_done, step), filled, step)


def _image_prompt(brief: Brief, draft: Draft, context: Context) -> Draft:
    step, spec = Step.IMAGE_PROMPT, brief.spec
    longest = context.models.painter(brief).longest
    writer = context.models.writer(brief, step)  # after the painter: weights of this machine go one after the other
    watch = _Watch(step, context)
    written = watch(
        lambda: first_frame.write_image_prompt(writer, brief.prompt, spec.width, spec.height, longest), writer
    )
    version = watch.version(brief, written.text, given=brief.prompt, answers=(written,))
    return _keep(context, draft, version, written.text)


def _first_frame(brief: Brief, draft: Draft, context: Context) -> Draft:
    """Candidates one by one, each kept as soon as it is there; the first is in force unless another is chosen."""
    step, spec = Step.FIRST_FRAME, brief.spec
    assert brief.full
    draft = _shortened(brief, draft, context)
    parts = list(draft.unfinished)
    prompt = parts[0].given if parts else draft.image_prompt or ""
    endpoint, painter = split(brief.full.models[step])[0], context.models.painter(brief)
    while (painted := sum(bool(part.pictures) for part in parts)) < brief.full.candidates:
        seed = (spec.seed + draft.painted + painted) % (MAX_SEED + 1)
        watch = _Watch(step, context, (painted, brief.full.candidates))
        paint = partial(first_frame.paint, painter, prompt, spec.width, spec.height, seed, endpoint=endpoint)
        answer = watch(paint, painter)
        picture = _keep_frame(answer.picture, brief, context)
        parts.append(watch.version(brief, "", given=prompt, answers=(answer,), pictures=(picture,)))
        draft = _note(draft, tuple(parts), context)
    pictures = tuple(dict.fromkeys(path for part in parts for path in part.pictures))
    draft = draft.model_copy(update={"painted": draft.painted + brief.full.candidates})
    return _keep(context, draft, _together(parts).model_copy(update={"pictures": pictures}), pictures[0])


def _shortened(brief: Brief, draft: Draft, context: Context) -> Draft:
    """The draft with the image prompt written shorter, where the painter takes no more; it is what is painted from."""
    prompt, longest = draft.image_prompt or "", context.models.painter(brief).longest
    if draft.unfinished or longest is None or len(prompt) <= longest:
        return draft
    assert brief.full
    writer, endpoint = context.models.writer(brief, Step.IMAGE_PROMPT), split(brief.full.models[Step.FIRST_FRAME])[0]
    watch = _Watch(Step.FIRST_FRAME, context)
    answer = watch(lambda: first_frame.shorten(writer, prompt, longest, endpoint=endpoint), writer)
    return _note(draft, (watch.version(brief, "", given=answer.text, answers=(answer,)),), context)


def _elements(brief: Brief, draft: Draft, context: Context) -> Draft:
    step = Step.ELEMENTS
    writer = context.models.writer(brief, step)
    picture = _cut(context.data / (draft.first_frame or ""), brief, brief.first_frame_position)
    watch = _Watch(step, context)
    seen, written = watch(lambda: elements.describe(writer, picture), writer)
    text = seen.as_text()
    version = watch.version(brief, text, answers=(written,), pictures=(draft.first_frame or "",))
    return _keep(context, draft, version, text)


def _video_prompt(brief: Brief, draft: Draft, context: Context) -> Draft:
    """Written, checked, and written once more with what was found; what remains then is kept with it, to be shown."""
    step, full = Step.VIDEO_PROMPT, brief.full
    assert full
    writer = context.models.writer(brief, step)
    seen = Elements.from_text(draft.elements).text if draft.elements else ()
    asked = Asked(idea=brief.prompt, sound=full.sound, on_screen=seen)
    given = "\n\n".join(filter(None, (brief.prompt, draft.elements, *full.sound.material().values())))

    def write(before: Version | None) -> Version:
        previous, findings = (before.text, before.findings) if before else (None, ())
        watch = _Watch(step, context)
        written = watch(
            lambda: rewriter.write_video_prompt(
                writer, brief.prompt, draft.elements, full.sound, previous=previous, findings=findings
            ),
            writer,
        )
        text = rewriter.finish(written.text)
        version = watch.version(brief, text, given=given, answers=(written,))
        return version.model_copy(update={"findings": check(text, asked)})

    version = draft.unfinished[0] if draft.unfinished else write(None)
    if version.findings:
        if not draft.unfinished:
            draft = _note(draft, (version,), context)
        version = _better(version, write(version))
    return _keep(context, draft, version, version.text)


def _better(first: Version, second: Version) -> Version:
    """The one with fewer findings, the later if they are even; what both took is counted."""
    best = first if len(first.findings) < len(second.findings) else second
    return _together((first, second)).model_copy(update={"text": best.text, "findings": best.findings})


def _together(parts: Sequence[Version]) -> Version:
    """The last of a step's parts, with what all of them took."""
    return parts[-1].model_copy(
        update={
            "seconds": sum(part.seconds for part in parts),
            "tokens_in": _sum(part.tokens_in for part in parts),
            "tokens_out": _sum(part.tokens_out for part in parts),
        }
    )


def _note(draft: Draft, unfinished: tuple[Version, ...], context: Context) -> Draft:
    """The draft with what the step under way has paid for so far, saved."""
    draft = draft.model_copy(update={"unfinished": unfinished})
    context.save(draft)
    return draft


class _Watch:
    """Makes a step's calls while the job is watched, and knows how long they took."""

    def __init__(self, step: Step, context: Context, place: tuple[int, int] = (0, 1)) -> None:
        self._step, self._context, self._place = step, context, place
        self._began = monotonic()

    def __call__(self, call: Callable[[], Result], model: Model) -> Result:
        return attend(call, model, lambda: self._context.on_step(self._step, *self._place))

    def version(
        self,
        brief: Brief,
        text: str,
        *,
        answers: Iterable[Written | Painted],
        given: str = "",
        pictures: tuple[str, ...] = (),
    ) -> Version:
        """What came of it, with what it took."""
        assert brief.full
        answers = tuple(answers)
        return Version(
            step=self._step,
            text=text,
            pictures=pictures,
            given=given,
            model=brief.full.models.get(self._step),
            answered_by=answers[-1].model,
            seconds=monotonic() - self._began,
            tokens_in=_sum(answer.tokens_in for answer in answers),
            tokens_out=_sum(answer.tokens_out for answer in answers),
            made_at=self._context.clock(),
        )


def _keep(context: Context, draft: Draft, version: Version, blank: str) -> Draft:
    """The draft with the step's blank filled, saved with what filled it."""
    draft = draft.model_copy(
        update={BLANKS[version.step]: blank, "unfinished": (), "stale": draft.stale - {version.step}}
    )
    context.save(draft, version)
    return draft


def _keep_frame(picture: bytes, brief: Brief, context: Context) -> str:
    """Write a painted frame, cut to the clip's ratio, under a name by its content; its path, relative to the data."""
    framed = _cut(picture, brief)
    name = f"frame-{hashlib.sha256(framed).hexdigest()[:12]}.png"
    target = context.data / context.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{name}.part")
    try:
        part.write_bytes(framed)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return f"{context.folder}/{name}"


def _cut(source: bytes | Path, brief: Brief, position: Position = CENTRE) -> bytes:
    """A picture as PNG, cut to exactly the clip's ratio: as large as it is, in whole multiples of the clip's size."""
    picture, spec = open_picture(source), brief.spec
    most = min(picture.width // spec.width, picture.height // spec.height, MOST_ACROSS // max(spec.width, spec.height))
    times = max(1, most)
    buffer = io.BytesIO()
    fit_picture(picture, spec.height * times, spec.width * times, position=position).save(buffer, "PNG")
    return buffer.getvalue()


def _sum(counts: Iterable[int | None]) -> int | None:
    """What was reported, added up; None if nothing was."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


STAGES = (
    _stage(Step.IMAGE_PROMPT, _image_prompt),
    _stage(Step.FIRST_FRAME, _first_frame),
    _stage(Step.ELEMENTS, _elements),
    _stage(Step.VIDEO_PROMPT, _video_prompt),
    Stage("render", lambda _, draft: draft.clip is not None, render),
)
