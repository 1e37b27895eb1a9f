"""A data folder with a play on it: jobs in every state, as the worker would leave them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from PIL import Image
from streamlit.testing.v1 import AppTest

from agents.sound import Line, Sound
from agents.troubles import Trouble
from app.jobs import BLANKS, Brief, Failure, Full, Job, Kind, Machine, Progress, Rendered, Status, Step, Version
from app.settings import ROOT
from app.store import JobStore
from mova.spec import ClipSpec

SECONDS = {"loading": 3.0, "text": 0.4, "frame": 0.2, "denoising": 62.0, "decoding": 4.0, "writing": 1.0}
MACHINE = Machine(engine="local", device="cuda:0", peak_memory={"rss": 3 << 30, "cuda": 21 << 30})
FAILURE = Failure(kind=Kind.GPU_MEMORY, sentence="The GPU ran out of memory.", remedy="Shorter.", details="Traceback …")
IDEA = 'A red ball bounces on a wooden floor. A boy says "Again!"'
IMAGE_PROMPT = "Medium shot, eye level. A red ball on a wooden floor under a sign."
ELEMENTS = 'Visual style: flat colours.\n\nCamera: eye level.\n\nElements: a red ball.\n\nText: "OPEN"'
PROMPT = (
    'This video has no subtitles. A red ball lies under a sign that reads "OPEN", then bounces; a boy says "Again!"'
    "\n\nThe audio shows one young voice that says the line with joy, and two soft thuds of rubber on wood."
)
WORDS = {Step.IMAGE_PROMPT: IMAGE_PROMPT, Step.ELEMENTS: ELEMENTS, Step.VIDEO_PROMPT: PROMPT}
GIVEN = {Step.IMAGE_PROMPT: IDEA, Step.FIRST_FRAME: IMAGE_PROMPT, Step.VIDEO_PROMPT: f"{IDEA}\n\n{ELEMENTS}"}
MODELS = {
    Step.IMAGE_PROMPT: "gemini:gemini-flash",
    Step.FIRST_FRAME: "builtin",
    Step.ELEMENTS: "builtin",
    Step.VIDEO_PROMPT: "gemini:gemini-flash",
}
STEP_FAILURE = Failure(
    kind=Trouble.TIMEOUT,
    sentence="Gemini didn't answer within 120 seconds.",
    remedy="Try again.",
    details="Traceback …",
    step=Step.VIDEO_PROMPT,
)


def brief(prompt: str = "A gull lands on a pier.", *, portrait: bool = False, seed: int = 7, steps: int = 10) -> Brief:
    width, height = (144, 256) if portrait else (256, 144)
    spec = ClipSpec(width=width, height=height, num_frames=25, fps=12, num_inference_steps=steps, seed=seed)
    return Brief(prompt=prompt, checkpoint="checkpoints/MOVA-playground", spec=spec)


def running(store: JobStore, prompt: str = "It runs.", *, step: int = 4, **asked: Any) -> Job:
    """A job in the middle of its steps; nothing else may wait in the queue before it."""
    job = store.submit(brief(prompt, **asked))
    store.claim()
    steps = job.brief.spec.num_inference_steps
    store.report(
        job.id,
        Progress(phase="denoising", step=step, total=steps, seconds={"loading": 3.0, "denoising": 6.0 * step}),
        MACHINE,
    )
    return look(store, job.id)


def finished(store: JobStore, prompt: str = "It is done.", *, first_frame: bytes | None = None, **asked: Any) -> Job:
    """A job with a clip; its files are for whoever needs them to write."""
    job = store.submit(brief(prompt, **asked), first_frame=first_frame)
    store.claim()
    return _done(store, job)


def full_brief(idea: str = IDEA, *, review: Iterable[Step] = (), candidates: int = 1, **asked: Any) -> Brief:
    """An idea for Full Workflow, whose steps are done by models of two providers."""
    sound = Sound(dialogue=(Line(speaker="a boy", words="Again!"),))
    full = Full(models=MODELS, sound=sound, review=frozenset(review), candidates=candidates)
    return brief(idea, **asked).model_copy(update={"full": full})


def made(store: JobStore, job: Job, step: Step, text: str | None = None, **about: Any) -> None:
    """Have a step of a running job bring something about; without a text what the play has for it, or frames."""
    job, text = look(store, job.id), WORDS.get(step, "") if text is None else text
    pictures: tuple[str, ...] = ()
    if step is Step.FIRST_FRAME:
        assert job.brief.full
        pictures = tuple(frame(store, job, number) for number in range(job.brief.full.candidates))
    elif step is Step.ELEMENTS:
        pictures = (job.draft.first_frame or "",)
    told = {"model": MODELS[step], "given": GIVEN.get(step, ""), "seconds": 3.4, "made_at": 1.0} | about
    version = Version(step=step, text=text, **{"pictures": pictures, **told})
    blank = version.pictures[0] if step is Step.FIRST_FRAME else text
    store.save(job.id, job.draft.model_copy(update={BLANKS[step]: blank}), version)


def frame(store: JobStore, job: Job, number: int = 0) -> str:
    """A frame that was painted for a job, in a colour of its own; its path."""
    path = store.data / job.folder / f"frame-{number:012x}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    spec, colour = job.brief.spec, ("#B5442E", "#2E6FB5", "#2EB56A", "#B59A2E")[number % 4]
    Image.new("RGB", (spec.width * 2, spec.height * 2), colour).save(path)
    return path.relative_to(store.data).as_posix()


def full_at(store: JobStore, step: Step | None, idea: str = IDEA, *, prompt: str = PROMPT, **asked: Any) -> Job:
    """A job of Full Workflow that runs, with every step before this one done; None: all of them."""
    job = store.submit(full_brief(idea, **asked))
    store.claim()
    for each in Step:
        if each is step:
            store.report(job.id, Progress(phase=each, step=0, total=1, seconds={each: 1.5}))
            break
        tokens = {"tokens_in": 1412, "tokens_out": 180} if MODELS[each] != "builtin" else {}
        made(store, job, each, prompt if each is Step.VIDEO_PROMPT else None, **tokens)
    return look(store, job.id)


def in_review(store: JobStore, step: Step = Step.VIDEO_PROMPT, idea: str = IDEA, **asked: Any) -> Job:
    """A job that waits for its creator after that step."""
    order = list(Step)
    following = order[order.index(step) + 1] if step is not order[-1] else None
    job = full_at(store, following, idea, review=(step,), **asked)
    store.close(job.id, Status.REVIEW)
    return look(store, job.id)


def failed_at(store: JobStore, failure: Failure = STEP_FAILURE, **asked: Any) -> Job:
    """A job whose step failed that the failure names."""
    job = full_at(store, failure.step, **asked)
    store.close(job.id, Status.FAILED, failure)
    return look(store, job.id)


def stale(store: JobStore) -> Job:
    """A job in review whose image prompt its creator has written anew."""
    job = in_review(store)
    store.write(job.id, Step.IMAGE_PROMPT, "A blue ball on a wooden floor.")
    return look(store, job.id)


def full_done(store: JobStore, idea: str = IDEA, **asked: Any) -> Job:
    """A job of Full Workflow with a clip."""
    job = full_at(store, None, idea, **asked)
    return _done(store, job)


def _done(store: JobStore, job: Job) -> Job:
    spec = job.brief.spec
    store.report(job.id, Progress(phase="writing", step=1, total=1, seconds=SECONDS), MACHINE)
    rendered = Rendered(
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        fps=spec.fps,
        duration=spec.duration,
        sample_rate=48_000,
        loudness=-23.14,
        true_peak=-3.2,
        gain_db=-1.5,
    )
    store.save(job.id, job.draft.model_copy(update={"clip": f"{job.folder}/clip.mp4", "rendered": rendered}))
    store.close(job.id, Status.DONE)
    return look(store, job.id)


def ended(store: JobStore, status: Status, prompt: str = "It came to nothing.", failure: Failure | None = None) -> Job:
    """A job without a clip."""
    job = store.submit(brief(prompt))
    store.claim()
    store.close(job.id, status, failure)
    return look(store, job.id)


def look(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def visit(name: str, language: str = "en", **params: str) -> AppTest:
    """That page of the studio, run once, in a browser of that language."""
    test = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    test.context = {"url": "http://studio.test:8501/", "locale": {"en": "en-GB", "zh": "zh-CN"}[language]}
    test.switch_page(f"../pages/{name}.py")
    for key, value in params.items():
        test.query_params[key] = value
    return run(test)


def run(test: AppTest) -> AppTest:
    test.run()
    assert not test.exception, test.exception
    return test


def click(test: AppTest, key: str) -> AppTest:
    test.button(key=key).click()
    return run(test)


def shown(test: AppTest) -> str:
    """Every text on the page, as it was written rather than as Markdown."""
    kinds = ("title", "header", "subheader", "markdown", "text", "caption", "info", "warning", "error", "badge")
    said = [str(element.value) for kind in kinds for element in test.get(kind)]
    said += [str(table.value.to_csv()) for table in test.get("table")]
    said += [link.label for link in test.get("page_link")]
    return "\n".join(said).replace("\\", "")
