from __future__ import annotations

from typing import Any

import pytest

from app.estimates import PHASES, Timings, evaluations, finish_times, measured, remaining, total, typical
from app.jobs import Draft, Job, Progress, Status
from mova.guidance import guidance
from mova.pipeline import PHASES as ENGINE_PHASES
from mova.spec import ClipSpec
from tests.app.conftest import make_brief

TIMINGS = Timings(load=100, text=1, frame=2, per_evaluation=10, decode=4, write=5)
STEPS = 3  # of make_brief, two evaluations each
WHOLE = 100 + 1 + 2 + 60 + 4 + 5.0


def job(phase: str | None = None, step: int = 0, total: int = 1, reported_at: float = 0.0, **options: Any) -> Job:
    """A running job that reported at that moment; queued without a phase."""
    progress = Progress(phase=phase, step=step, total=total, **options) if phase else None
    status = Status.RUNNING if phase else Status.QUEUED
    return Job(
        id="a",
        status=status,
        cancel=False,
        brief=make_brief(steps=STEPS),
        draft=Draft(),
        progress=progress,
        created_at=0.0,
        reported_at=reported_at,
    )


def test_the_phases_are_the_engines() -> None:
    assert tuple(PHASES) == ENGINE_PHASES


@pytest.mark.parametrize("bridge", [0.0, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("text", [0.0, 1.0, 2.0, 5.0])
def test_evaluations_are_those_of_the_guidance(text: float, bridge: float) -> None:
    spec = ClipSpec(num_inference_steps=7, guidance_scale=text, bridge_guidance_scale=bridge)
    assert evaluations(spec) == 7 * len(guidance(text, bridge).branches)


def test_a_clips_time_is_the_sum_of_its_parts() -> None:
    assert total(TIMINGS, make_brief(steps=STEPS)) == WHOLE
    assert total(TIMINGS, make_brief(steps=STEPS), loaded=True) == WHOLE - 100
    assert total(TIMINGS, make_brief(steps=10 * STEPS)) == WHOLE + 9 * 60


def test_a_run_is_measured_whole_or_not_at_all() -> None:
    seconds = {"text": 1.0, "frame": 2.0, "denoising": 60.0, "decoding": 4.0, "writing": 5.0}
    brief = make_brief(steps=STEPS)
    done = Progress(phase="writing", step=1, total=1, seconds=seconds)
    assert measured(done, brief) == TIMINGS.model_copy(update={"load": 0.0})
    loaded = done.model_copy(update={"seconds": seconds | {"loading": 100.0}})
    assert measured(loaded, brief) == TIMINGS
    for phase in seconds:
        part = {name: value for name, value in seconds.items() if name != phase}
        assert measured(done.model_copy(update={"seconds": part}), brief) is None
    assert measured(None, brief) is None


def test_what_is_typical_is_the_median_and_a_load_that_was_one() -> None:
    runs = [TIMINGS.model_copy(update={"load": load, "text": text}) for load, text in ((0, 1), (80, 2), (0, 99))]
    assert typical(runs) == TIMINGS.model_copy(update={"load": 80, "text": 2})
    assert typical([TIMINGS.model_copy(update={"load": 0})]).load == 0  # type: ignore[union-attr]
    assert typical([]) is None


def test_before_any_measurement_it_is_not_known() -> None:
    assert remaining(job(), None, 0.0) is None
    assert remaining(job("loading", 3, 7, seconds={"loading": 50.0}), None, 0.0) is None
    assert remaining(job("denoising", 0, STEPS, seconds={"text": 1.0, "denoising": 3.0}), None, 0.0) is None


@pytest.mark.parametrize(
    ("running", "left"),
    [
        (job("loading", 2, 7, seconds={"loading": 30.0}), WHOLE - 30),
        (job("loading", 2, 7, seconds={"loading": 300.0}), WHOLE - 100),
        (job("text", seconds={"loading": 100.0, "text": 0.5}), WHOLE - 100.5),
        (job("text", 1, 1, seconds={"text": 1.0}), 2 + 60 + 9),
        (job("denoising", 0, STEPS, seconds={"denoising": 5.0}), 55 + 9),
        (job("denoising", 1, STEPS, seconds={"denoising": 30.0}), 60 + 9),
        (job("denoising", 1, STEPS, seconds={"denoising": 45.0}, pace=30.0), 45 + 9),
        (job("denoising", STEPS, STEPS, seconds={"denoising": 90.0}), 9),
        (job("decoding", 1, 2, seconds={"decoding": 3.0}), 3 + 5),
        (job("writing", seconds={"writing": 1.0}), 4),
        (job("writing", 1, 1, seconds={"writing": 1.0}), 0),
    ],
)
def test_what_is_left_combines_this_run_with_earlier_ones(running: Job, left: float) -> None:
    assert remaining(running, TIMINGS, 0.0) == pytest.approx(left)


def test_after_a_step_this_run_alone_tells() -> None:
    running = job("denoising", 1, STEPS, seconds={"denoising": 30.0}, reported_at=1000.0)
    assert remaining(running, None, 1000.0) == 60
    assert remaining(running, None, 1012.0) == 48, "time goes on between two reports"
    assert remaining(running, None, 9999.0) == 0
    assert remaining(running, None, 500.0) == 60, "the clock was set back"


def test_an_ended_job_has_nothing_left() -> None:
    assert remaining(job().model_copy(update={"status": Status.DONE}), TIMINGS, 0.0) is None


def test_a_queue_runs_one_after_the_other_and_loads_once() -> None:
    running = job("writing", seconds={"writing": 1.0}, reported_at=1000.0)
    other = running.brief.model_copy(update={"offload": "layer"})
    queue = [running.model_copy(update={"id": "running"}), *(job().model_copy(update={"id": name}) for name in "bcd")]
    queue[3] = queue[3].model_copy(update={"brief": other})
    assert finish_times(queue, lambda job: TIMINGS, 1000.0) == {
        "running": 1004.0,
        "b": 1004 + WHOLE - 100,
        "c": 1004 + 2 * (WHOLE - 100),
        "d": 1004 + 3 * WHOLE - 200,
    }


def test_from_the_first_that_is_not_known_none_is() -> None:
    queue = [job().model_copy(update={"id": name}) for name in "abc"]
    known = finish_times(queue, lambda job: None if job.id == "b" else TIMINGS, 0.0)
    assert known == {"a": WHOLE, "b": None, "c": None}
    assert finish_times([], lambda job: TIMINGS, 0.0) == {}
