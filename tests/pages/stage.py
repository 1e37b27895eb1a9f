"""A data folder with a play on it: jobs in every state, as the worker would leave them."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest

from app.jobs import Brief, Failure, Job, Kind, Machine, Progress, Rendered, Status
from app.settings import ROOT
from app.store import JobStore
from mova.spec import ClipSpec

SECONDS = {"loading": 3.0, "text": 0.4, "frame": 0.2, "denoising": 62.0, "decoding": 4.0, "writing": 1.0}
MACHINE = Machine(engine="local", device="cuda:0", peak_memory={"rss": 3 << 30, "cuda": 21 << 30})
FAILURE = Failure(kind=Kind.GPU_MEMORY, sentence="The GPU ran out of memory.", remedy="Shorter.", details="Traceback …")


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
    kinds = ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error", "badge")
    said = [str(element.value) for kind in kinds for element in test.get(kind)]
    said += [str(table.value.to_csv()) for table in test.get("table")]
    said += [link.label for link in test.get("page_link")]
    return "\n".join(said).replace("\\", "")
