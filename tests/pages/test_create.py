"""The Create page in Simple mode, without a browser or a worker."""

from __future__ import annotations

import errno
import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image
from streamlit.testing.v1 import AppTest

from app import failures
from app.jobs import HUNG_SECONDS, Brief, Failure, Job, Kind, Progress, Rendered, Status
from app.settings import ROOT
from app.store import JobStore
from mova.playground import make_playground
from tests.app.conftest import found, make_brief, picture


@pytest.fixture(autouse=True)
def simple(store: JobStore) -> None:
    store.keep_form({"mode": "simple"})


@pytest.fixture
def page(data: Path) -> AppTest:
    return visit()


def visit(locale: str = "en-GB") -> AppTest:
    """A browser's first visit: a session of its own."""
    page = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=30)
    page.context = {"url": "http://studio.test:8501/", "locale": locale}
    return page


def shown(page: AppTest) -> str:
    """Every text on the page."""
    kinds = ("title", "header", "markdown", "caption", "info", "warning", "error", "badge")
    return "\n".join(str(element.value) for kind in kinds for element in page.get(kind))


def run(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


def start_over(page: AppTest) -> AppTest:
    """Clear the form, and say that this is meant."""
    page.button(key="start_over").click()
    run(page).button(key="start_over_now").click()
    return run(page)


def generate(page: AppTest) -> AppTest:
    page.button(key="generate").click()
    return run(page)


def submitted(page: AppTest, store: JobStore) -> Brief:
    """Press Generate; the brief of the one job that this made, which is shown."""
    generate(page)
    (job,) = store.history()
    assert page.query_params["job"] == job.id
    return job.brief


def upload(page: AppTest, content: bytes, place: str = "first_frame") -> AppTest:
    (field,) = [field for field in page.file_uploader if str(field.key).startswith(f"{place}_upload")]
    field.upload("photo.png", content)
    return run(page)


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
    page.selectbox(key="preset").set_value("light")
    page.text_area(key="negative_prompt").set_value("rain")
    brief = submitted(page, store)
    spec = brief.spec
    assert brief.prompt == "{A} gull; 海鸥 &amp; 🐦"
    assert (spec.width, spec.height, spec.num_frames, spec.fps, spec.num_inference_steps) == (144, 256, 25, 24, 10)
    assert (spec.guidance_scale, spec.bridge_guidance_scale, spec.video_shift, spec.audio_shift) == (3, 3.5, 4, 2)
    assert (spec.seed, spec.negative_prompt, brief.preset, brief.random_seed) == (42, "rain", "light", False)


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
        ("fps", 0.0, "nearest valid: 1"),
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
    upload(page, picture(400, 100, "red", "JPEG"))
    upload(page, picture(100, 400, "blue"), "last_frame")
    assert shown(page).count("Cropped to 256 × 144") == 2
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
        upload(page, buffer.getvalue())
        assert not page.error, mode
        assert "Cropped to" in shown(page), mode
        page.button(key="first_frame_remove").click()


@pytest.mark.parametrize("content", [b"", b"no picture at all", picture()[:40]])
def test_what_is_no_picture_is_refused_in_a_sentence(page: AppTest, store: JobStore, content: bytes) -> None:
    run(page)
    upload(page, content)
    generate(page)
    by_the_frame, by_the_button = page.error
    assert "hoose" in by_the_frame.value
    assert by_the_button.value == by_the_frame.value
    assert store.history() == []
    assert not start_over(page).error
    submitted(page, store)


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


def test_checkpoints_of_one_name_are_told_apart_and_a_broken_one_is_not_the_first(data: Path, store: JobStore) -> None:
    folder = data / "checkpoints"
    for name in ("b-copy", "c-copy"):
        make_playground(folder / name)
    (folder / "a-broken" / "video_dit").mkdir(parents=True)
    (folder / "a-broken" / "model_index.json").write_text("{", encoding="utf-8")
    page = run(visit())
    box = page.selectbox(key="checkpoint")
    assert len(set(box.options)) == len(box.options) == 4
    assert "can't be used yet" in box.options[0]
    assert box.value == str(folder / "b-copy")
    box.select_index(2)
    assert submitted(page, store).checkpoint == "checkpoints/c-copy"


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
    assert re.search(r"1:(20|1\d) min left", shown(page))
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


# Failures


def failed(store: JobStore, kind: Kind, **brief: Any) -> Job:
    failure = Failure(kind=kind, sentence="It *broke*.", remedy="Mend it.", details="Traceback …")
    return end(store, Status.INTERRUPTED if kind is Kind.INTERRUPTED else Status.FAILED, failure, **brief)


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("kind", Kind)
def test_every_failure_is_a_card_with_a_sentence_remedies_and_details(store: JobStore, kind: Kind, locale: str) -> None:
    job = failed(store, kind)
    page = visit(locale)
    page.query_params["job"] = job.id
    run(page)
    (error,) = page.error
    told = failures.TOLD
    assert (r"It \*broke\*\." in error.value) is (kind in told), "what the engine said is there where it tells more"
    assert (("检" in error.value) or ("，" in error.value) or ("。" in error.value)) is (locale == "zh-CN")
    buttons = [name for name in failures.remedies(found(store, job)) if page.button(key=f"{name}_{job.id}").label]
    assert 1 <= len(buttons) <= 2
    assert page.code[0].value == "Traceback …"


@pytest.mark.parametrize("name", ["retry", "again"])
def test_a_remedy_starts_the_job_again(page: AppTest, store: JobStore, name: str) -> None:
    job = failed(store, Kind.UNKNOWN if name == "retry" else Kind.INTERRUPTED)
    page.query_params["job"] = job.id
    run(page).button(key=f"{name}_{job.id}").click()
    run(page)
    assert store.get(job.id).status is Status.QUEUED  # type: ignore[union-attr]


def test_a_full_gpu_is_answered_with_offload(page: AppTest, store: JobStore) -> None:
    job = failed(store, Kind.GPU_MEMORY)
    page.query_params["job"] = job.id
    run(page).button(key=f"offload_{job.id}").click()
    run(page)
    copy, _ = store.history()
    assert page.query_params["job"] == copy.id
    assert (copy.brief.offload, copy.brief.spec, copy.status) == ("layer", job.brief.spec, Status.QUEUED)


def test_no_offload_is_offered_where_it_was_tried(page: AppTest, store: JobStore) -> None:
    job = failed(store, Kind.GPU_MEMORY, offload="layer")
    page.query_params["job"] = job.id
    run(page)
    assert f"offload_{job.id}" not in {button.key for button in page.button}


def test_a_remedy_fills_the_form(page: AppTest, store: JobStore) -> None:
    job = failed(store, Kind.PICTURE, prompt="A kite")
    page.query_params["job"] = job.id
    run(page).button(key=f"other_picture_{job.id}").click()
    run(page)
    assert page.text_area(key="prompt").value == "A kite"


def test_a_remedy_opens_settings(page: AppTest, store: JobStore) -> None:
    job = failed(store, Kind.GONE)
    page.query_params["job"] = job.id
    run(page).button(key=f"open_settings_{job.id}").click()
    run(page)
    assert not page.text_area, "another page"


def test_a_cancelled_job_can_be_tried_again(page: AppTest, store: JobStore) -> None:
    job = end(store, Status.CANCELLED)
    page.query_params["job"] = job.id
    run(page).button(key=f"retry_{job.id}").click()
    run(page)
    assert store.get(job.id).status is Status.QUEUED  # type: ignore[union-attr]


def test_a_store_that_refuses_a_job_is_told(page: AppTest, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page)

    def refuse(*_: Any, **__: Any) -> Job:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JobStore, "submit", refuse)
    generate(page)
    (error,) = page.error
    assert "disk is full" in error.value.lower()


# A job on its way


def test_a_job_that_is_silent_for_long_can_be_ended(data: Path, page: AppTest) -> None:
    now = [time.time() - HUNG_SECONDS - 60]
    store = JobStore(data, clock=lambda: now[0])
    job = store.submit(make_brief())
    store.claim()
    store.report(job.id, Progress(phase="denoising", step=1, total=3))
    page.query_params["job"] = job.id
    (warning,) = run(page).warning
    assert "Nothing was heard of this job for 11:0" in warning.value
    page.button(key="end_worker").click()
    run(page)


def test_a_working_job_is_not_said_to_hang(page: AppTest, store: JobStore) -> None:
    job = store.submit(make_brief())
    store.claim()
    store.report(job.id, Progress(phase="denoising", step=1, total=3))
    page.query_params["job"] = job.id
    assert not run(page).warning


def test_a_paused_queue_is_said_and_resumed(page: AppTest, store: JobStore) -> None:
    job = store.submit(make_brief())
    store.pause_now()
    page.query_params["job"] = job.id
    assert "The queue is paused" in shown(run(page))
    page.button(key="resume").click()
    assert "The queue is paused" not in shown(run(page))


def test_before_any_measurement_the_time_is_not_known(page: AppTest, store: JobStore) -> None:
    assert "How long it takes is not known yet" in shown(run(page))
    page.query_params["job"] = store.submit(make_brief()).id
    assert "finish time not known yet" in shown(run(page))


# The form


def test_several_takes_are_several_jobs(page: AppTest, store: JobStore) -> None:
    run(page)
    page.number_input(key="takes").set_value(3)
    page.text_input(key="seed").set_value("5")
    assert "3 takes · 256 × 144" in shown(run(page))
    generate(page)
    assert [job.brief.spec.seed for job in reversed(store.history())] == [5, 6, 7]
    assert "3 takes are in the queue" in shown(page)
    assert "are in the queue" not in shown(run(page)), "said once"


def test_the_crop_can_be_moved_along_its_free_axis(page: AppTest, store: JobStore) -> None:
    run(page)
    upload(page, picture(400, 100))
    assert page.slider(key="first_frame_position").label == "Crop: left to right"
    page.slider(key="first_frame_position").set_value(0)
    page.segmented_control(key="orientation").set_value("landscape")
    brief = submitted(page, store)
    assert brief.first_frame_position[0] == 0
    assert brief.last_frame_position == (0.5, 0.5)


def test_a_picture_of_the_very_shape_has_no_crop_to_move(page: AppTest) -> None:
    run(page)
    upload(page, picture(512, 288))
    assert not page.slider


def test_a_frame_can_be_removed_and_another_chosen(page: AppTest, store: JobStore) -> None:
    run(page)
    upload(page, picture())
    page.button(key="first_frame_remove").click()
    assert "text only" in shown(run(page))
    assert not list((store.data / "drafts").iterdir())
    upload(page, picture(90, 30, "blue"))
    assert submitted(page, store).first_frame


def test_a_draft_survives_a_reload(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.number_input(key="seconds").set_value(1.5)
    page.number_input(key="steps").set_value(3)
    page.selectbox(key="loudness").set_value("-16")
    upload(page, picture(100, 400))
    page.slider(key="first_frame_position").set_value(25)
    run(page)

    again = run(visit())
    assert again.text_area(key="prompt").value == "My own words"
    assert again.slider(key="first_frame_position").value == 25
    brief = submitted(again, store)
    assert (brief.spec.num_frames, brief.spec.num_inference_steps, brief.loudness) == (17, 3, -16)
    assert brief.first_frame
    assert brief.first_frame_position[1] == 0.25


def test_a_frame_whose_file_has_gone_is_said_and_holds_the_job_back(page: AppTest, store: JobStore) -> None:
    run(page)
    upload(page, picture())
    for file in (store.data / "drafts").iterdir():
        file.unlink()
    generate(page)
    assert "no longer there" in page.error[0].value
    assert store.history() == []


@pytest.mark.parametrize(
    "content", [{"prompt": 3, "takes": 99, "orientation": "round", "seconds": "long"}, {"x": 1, "lines": [3]}]
)
def test_a_draft_of_another_version_does_no_harm(page: AppTest, store: JobStore, content: dict[str, Any]) -> None:
    store.keep_form({"mode": "simple", **content})
    run(page)
    assert submitted(page, store).prompt.startswith("A lighthouse")


def test_start_over_brings_the_example_back(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.number_input(key="steps").set_value(3)
    upload(page, picture())
    start_over(page)
    assert page.text_area(key="prompt").value.startswith("A lighthouse")
    brief = submitted(page, store)
    assert (brief.spec.num_inference_steps, brief.first_frame) == (4, None)


def test_what_is_not_drawn_is_not_forgotten(page: AppTest, store: JobStore) -> None:
    """Streamlit drops the values of widgets that a run didn't draw: here the sliders of the crop."""
    run(page)
    upload(page, picture(400, 100))
    page.button(key="first_frame_remove").click()
    run(page)
    run(page)
    start_over(page)
    run(page)
    assert submitted(page, store).first_frame_position == (0.5, 0.5)


def test_the_form_is_as_it_was_after_a_look_at_another_page(page: AppTest) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.number_input(key="steps").set_value(3)
    upload(page, picture(400, 100))
    page.slider(key="first_frame_position").set_value(20)
    run(page)
    page.switch_page("../pages/settings.py")
    run(page)
    page.switch_page("../pages/create.py")
    run(page)
    assert page.text_area(key="prompt").value == "My own words"
    assert page.number_input(key="steps").value == 3
    assert page.slider(key="first_frame_position").value == 20


def test_a_checkpoint_that_has_gone_gives_way_to_another(
    page: AppTest, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep_form({"checkpoint": str(tmp_path / "gone"), "prompt": "My own words"})
    run(page)
    brief = submitted(page, store)
    assert (brief.checkpoint, brief.prompt) == ("checkpoints/MOVA-playground", "My own words")


def test_make_another_fills_the_form_with_all_of_it(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.segmented_control(key="orientation").set_value("portrait")
    page.segmented_control(key="quality").set_value("fine")
    page.number_input(key="seconds").set_value(1.0)
    page.number_input(key="bridge_guidance_scale").set_value(3.5)
    page.selectbox(key="loudness").set_value("-14")
    upload(page, picture(400, 100))
    page.slider(key="first_frame_position").set_value(80)
    first = submitted(page, store)
    (job,) = store.history()
    store.claim()
    rendered = Rendered(width=144, height=256, num_frames=13, fps=12, duration=1.08, sample_rate=16000)
    store.save(job.id, job.draft.model_copy(update={"clip": f"{job.folder}/clip.mp4", "rendered": rendered}))
    store.close(job.id, Status.DONE)
    start_over(page)
    page.query_params["job"] = job.id
    run(page).button(key="another").click()
    run(page)
    assert page.segmented_control(key="quality").value == "fine"
    assert page.number_input(key="steps").value is None, "as it was filled in"
    generate(page)
    second = store.history()[0].brief
    assert second.first_frame != first.first_frame
    changed = {"first_frame", "spec"}
    assert second.model_dump(exclude=changed) == first.model_dump(exclude=changed)
    assert second.spec.model_dump(exclude={"seed"}) == first.spec.model_dump(exclude={"seed"})
    assert second.spec.seed != first.spec.seed, "a seed that was drawn is drawn again"


def test_a_clips_last_frame_becomes_a_first_frame(
    page: AppTest, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, str]] = []

    def clip_frame(clip: Path, which: str) -> bytes:
        asked.append((clip, which))
        return picture(64, 48, "green")

    monkeypatch.setattr("app.desk.clip_frame", clip_frame)
    job = end(store, Status.DONE)
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    run(page).button(key=f"first_frame_last_{job.id}").click()
    run(page)
    assert asked == [(store.data / job.folder / "clip.mp4", "last")]
    assert page.text_area(key="prompt").value == "My own words", "the rest stays"
    generate(page)
    with Image.open(store.data / str(store.history()[0].brief.first_frame)) as kept:
        assert kept.getpixel((0, 0)) == (0, 128, 0)


def test_offload_says_what_it_does_not_do_here(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_DEVICE", "cpu")
    assert "no GPU was found" in shown(run(page))


# Languages


def test_a_chinese_browser_is_spoken_to_in_chinese(data: Path) -> None:
    page = run(visit("zh-CN"))
    assert page.title[0].value == "创作"
    assert page.button(key="generate").label == "生成"
    assert page.text_area(key="prompt").value.startswith("黄昏")


def test_the_language_can_be_switched_and_stays_in_the_address(page: AppTest) -> None:
    run(page)
    page.segmented_control(key="lang").set_value("zh")
    run(page)
    assert page.title[0].value == "创作"
    assert page.query_params["lang"] == "zh"
    assert page.text_area(key="prompt").value.startswith("黄昏"), "the example comes along"
    page.segmented_control(key="lang").set_value("en")
    run(page)
    assert "lang" not in page.query_params


def test_an_address_names_the_language(page: AppTest) -> None:
    page.query_params["lang"] = "zh"
    assert run(page).title[0].value == "创作"


def test_an_address_of_no_language_does_no_harm(page: AppTest) -> None:
    page.query_params["lang"] = "../xx"
    assert run(page).title[0].value == "Create"


@pytest.mark.parametrize(
    ("key", "value"), [("num_frames", 6), ("steps", 0), ("guidance_scale", -1.0), ("fps", 0.0), ("video_shift", 0.0)]
)
def test_wrong_numbers_are_told_in_chinese(data: Path, key: str, value: float) -> None:
    page = run(visit("zh-CN"))
    page.number_input(key=key).set_value(value)
    generate(page)
    (error,) = page.error
    assert not re.search("nearest|must|valid", error.value)
    assert re.search("[\u4e00-\u9fff]", error.value)


def test_a_prompt_of_one_language_is_not_changed_by_the_switch(page: AppTest) -> None:
    run(page)
    page.text_area(key="prompt").set_value("My own words")
    page.segmented_control(key="lang").set_value("zh")
    assert run(page).text_area(key="prompt").value == "My own words"
