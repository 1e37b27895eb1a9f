"""The Create page, without a browser or a worker."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.jobs import Brief, Failure, Job, Progress, Rendered, Status
from app.settings import ROOT
from app.store import JobStore
from tests.app.conftest import make_brief, picture


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("STUDIO_CHECKPOINT", raising=False)
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> JobStore:
    return JobStore(data)


@pytest.fixture
def page(data: Path) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=30)
    page.context = {"url": "http://studio.test:8501/"}
    return page


def shown(page: AppTest) -> str:
    """Every text on the page."""
    kinds = ("title", "header", "markdown", "caption", "info", "warning", "error", "badge")
    return "\n".join(str(element.value) for kind in kinds for element in page.get(kind))


def run(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


def generate(page: AppTest) -> AppTest:
    page.button(key="generate").click()
    return run(page)


def submitted(page: AppTest, store: JobStore) -> Brief:
    """Press Generate; the brief of the one job that this made, which is shown."""
    generate(page)
    (job,) = store.history()
    assert page.query_params["job"] == job.id
    return job.brief


def end(store: JobStore, status: Status, failure: Failure | None = None, **brief: Any) -> Job:
    job = store.submit(make_brief(**brief))
    store.claim()
    if status is Status.DONE:
        rendered = Rendered(
            width=64, height=48, num_frames=5, fps=10, duration=0.5, sample_rate=16000, loudness=-23.14, notes=("Cut.",)
        )
        store.save(job.id, job.draft.model_copy(update={"clip": f"{job.folder}/clip.mp4", "rendered": rendered}))
    store.close(job.id, status, failure)
    return job


def test_a_first_visit_runs_with_one_click(page: AppTest, store: JobStore) -> None:
    run(page)
    assert "Your clip appears here" in shown(page)
    assert page.text_area(key="prompt").value
    brief = submitted(page, store)
    assert brief.prompt == page.text_area(key="prompt").value
    assert (brief.spec.width, brief.spec.height, brief.spec.num_frames) == (256, 144, 25)
    assert brief.random_seed


def test_the_playground_says_that_it_makes_noise(page: AppTest, data: Path) -> None:
    run(page)
    (banner,) = page.info
    assert "noise" in banner.value
    assert str(data / "checkpoints") in banner.value.replace("\\", "")


def test_every_setting_reaches_the_brief(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("{A} gull; 海鸥 &amp; 🐦")
    page.segmented_control(key="orientation").set_value("portrait")
    page.segmented_control(key="quality").set_value("fine")
    page.number_input(key="seconds").set_value(1.0)
    page.number_input(key="guidance_scale").set_value(3.0)
    page.number_input(key="bridge_guidance_scale").set_value(3.5)
    page.number_input(key="video_shift").set_value(4.0)
    page.number_input(key="audio_shift").set_value(2.0)
    page.number_input(key="fps").set_value(24.0)
    page.text_input(key="seed").set_value("42")
    page.selectbox(key="offload").set_value("layer")
    page.text_area(key="negative_prompt").set_value("rain")
    brief = submitted(page, store)
    spec = brief.spec
    assert brief.prompt == "{A} gull; 海鸥 &amp; 🐦"
    assert (spec.width, spec.height, spec.num_frames, spec.fps, spec.num_inference_steps) == (144, 256, 25, 24, 10)
    assert (spec.guidance_scale, spec.bridge_guidance_scale, spec.video_shift, spec.audio_shift) == (3, 3.5, 4, 2)
    assert (spec.seed, spec.negative_prompt, brief.offload, brief.random_seed) == (42, "rain", "layer", False)


def test_exact_frames_and_steps_overrule(page: AppTest, store: JobStore) -> None:
    run(page)
    page.number_input(key="num_frames").set_value(9)
    page.number_input(key="steps").set_value(1)
    spec = submitted(page, store).spec
    assert (spec.num_frames, spec.num_inference_steps) == (9, 1)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("num_frames", 6, "nearest valid: 5 and 9"),
        ("steps", 0, "nearest valid: 1"),
        ("guidance_scale", -1.0, "is negative; nearest valid: 0"),
        ("fps", 0.0, "is not above 0"),
    ],
)
def test_wrong_numbers_are_refused_and_nothing_is_lost(
    page: AppTest, store: JobStore, key: str, value: float, sentence: str
) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.number_input(key=key).set_value(value)
    generate(page)
    assert sentence in shown(page).replace("\\", "")
    assert store.history() == []
    assert page.text_area(key="prompt").value == "My own words"


@pytest.mark.parametrize("seed", ["blue", "-3", "1.5", "9" * 30])
def test_a_seed_that_is_none_is_refused(page: AppTest, store: JobStore, seed: str) -> None:
    run(page)
    page.text_input(key="seed").set_value(seed)
    generate(page)
    assert "seed" in shown(page)
    assert store.history() == []


def test_an_uploaded_frame_is_shown_as_the_model_sees_it_and_goes_along(page: AppTest, store: JobStore) -> None:
    run(page)
    page.file_uploader(key="first_frame").upload("photo.jpg", picture(400, 100, "red", "JPEG"))
    page.file_uploader(key="last_frame").upload("photo.png", picture(100, 400, "blue"))
    run(page)
    assert "Cropped to 256 × 144" in shown(page)
    brief = submitted(page, store)
    with Image.open(store.data / str(brief.first_frame)) as kept:
        assert kept.size == (400, 100)
    with Image.open(store.data / str(brief.last_frame)) as kept:
        assert kept.size == (100, 400)


def test_pictures_of_every_kind_are_taken(page: AppTest) -> None:
    for mode in ("RGBA", "CMYK", "L", "P", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (64, 48)).save(buffer, "TIFF")
        run(page)
        page.file_uploader(key="first_frame").upload(f"{mode}.tif", buffer.getvalue())
        run(page)
        assert not page.error, mode


@pytest.mark.parametrize("content", [b"", b"no picture at all", picture()[:40]])
def test_what_is_no_picture_is_refused_in_a_sentence(page: AppTest, store: JobStore, content: bytes) -> None:
    run(page)
    page.file_uploader(key="first_frame").upload("photo.png", content)
    generate(page)
    (error,) = page.error
    assert "hoose" in error.value
    assert store.history() == []


def test_an_empty_prompt_is_asked_about(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("  ")
    generate(page)
    assert store.history() == []
    assert "Nothing says what is to be seen" in shown(page)
    page.button(key="generate_anyway").click()
    run(page)
    (job,) = store.history()
    assert job.brief.prompt == "  "


def test_a_prompt_that_is_cut_is_told_and_runs(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("gull " * 5000)
    run(page)
    assert "only the first 512" in shown(page)
    assert len(submitted(page, store).prompt) == 25000


def test_a_broken_checkpoint_is_named_and_refused(
    page: AppTest, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_CHECKPOINT", str(tmp_path / "nowhere"))
    run(page)
    generate(page)
    assert "nowhere is not a folder" in shown(page).replace("\\", "")
    assert store.history() == []
    page.selectbox(key="checkpoint").select_index(1)
    assert submitted(page, store).checkpoint == "checkpoints/MOVA-playground"


def test_a_queued_job_waits_for_a_worker(page: AppTest, store: JobStore) -> None:
    ahead, job = store.submit(make_brief()), store.submit(make_brief())
    page.query_params["job"] = job.id
    assert "1 job runs before this one" in shown(run(page))
    store.cancel(ahead.id)
    assert "No worker is running" in shown(run(page))
    with FileLock(store.data / "worker.lock"):
        assert "The worker takes it in a moment" in shown(run(page))


def test_a_running_job_shows_how_far_it_is_and_can_be_cancelled(page: AppTest, store: JobStore) -> None:
    job = store.submit(make_brief("A *gull* lands"))
    store.claim()
    page.query_params["job"] = job.id
    assert run(page).progress[0].text == "Starting the engine"
    seconds = {"loading": 3.0, "denoising": 20.0}
    store.report(job.id, Progress(phase="denoising", step=2, total=10, seconds=seconds))
    run(page)
    assert page.progress[0].text == "**Making picture and sound** · step 3 of 10"
    assert 17 < page.progress[0].value < 80
    assert "about 1:20 min left" in shown(page)
    assert "Loading the model 3 s" in shown(page)
    assert r"A \*gull\* lands" in shown(page), "shown as it was typed"
    page.button(key="cancel").click()
    run(page)
    assert store.get(job.id).cancel  # type: ignore[union-attr]
    assert page.button(key="cancel").disabled


def test_a_finished_job_plays_by_url(page: AppTest, store: JobStore) -> None:
    job = end(store, Status.DONE)
    page.query_params["job"] = job.id
    run(page)
    (video,) = page.get("video")
    assert video.url.startswith(f"http://studio.test:8501/files/jobs/{job.id}/clip.mp4?v=")
    assert page.link_button[0].url.endswith("&download")
    text = shown(page)
    for fact in ("64 × 48", "0.50 s", "−23.1 LUFS", "Seed 7", "Cut", "Checkpoint", "noise"):
        assert fact in text


def test_a_failed_job_says_why_and_can_be_tried_again(page: AppTest, store: JobStore) -> None:
    job = end(store, Status.FAILED, Failure(sentence="It *broke*.", remedy="Mend it.", details="Traceback …"))
    page.query_params["job"] = job.id
    run(page)
    (error,) = page.error
    assert error.value == "**It \\*broke\\*\\.**\n\nMend it\\."
    assert page.code[0].value == "Traceback …"
    page.button(key="retry").click()
    run(page)
    assert store.get(job.id).status is Status.QUEUED  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.INTERRUPTED])
def test_a_job_that_was_stopped_can_be_tried_again(page: AppTest, store: JobStore, status: Status) -> None:
    page.query_params["job"] = end(store, status).id
    assert not run(page).button(key="retry").disabled


def test_an_address_of_no_job_is_said(page: AppTest) -> None:
    page.query_params["job"] = "../../etc/passwd"
    assert "This job is not here" in shown(run(page))


def test_recent_jobs_are_listed_and_open(page: AppTest, store: JobStore) -> None:
    jobs = [
        end(store, status, prompt=f"Prompt of {status}") for status in (Status.DONE, Status.FAILED, Status.CANCELLED)
    ]
    run(page)
    text = shown(page)
    assert all(f"Prompt of {job.brief.prompt.split()[-1]}" in text for job in jobs)
    page.button(key=f"open_{jobs[0].id}").click()
    run(page)
    assert page.query_params["job"] == jobs[0].id
    assert page.get("video")
