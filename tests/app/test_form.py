from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.form import Form, compose, in_words, size_of, steps_of, too_long
from app.jobs import Brief
from mova.layout import PLAYGROUND_NAME, CheckpointInfo

DATA = Path("/studio/data")
PLAYGROUND = CheckpointInfo(DATA / "checkpoints" / PLAYGROUND_NAME, PLAYGROUND_NAME, (), ())
REAL = CheckpointInfo(Path("/models/MOVA-720p"), "MOVA-720p", (), ())


def made(form: Form, **options: Any) -> Brief:
    brief = compose(form, data=DATA, **options)
    assert isinstance(brief, Brief), brief
    return brief


def test_the_form_as_it_starts_is_a_brief() -> None:
    brief = made(Form(PLAYGROUND, prompt="A gull."))
    spec = brief.spec
    assert (spec.width, spec.height, spec.num_frames, spec.fps, spec.num_inference_steps) == (256, 144, 25, 12, 4)
    assert brief.checkpoint == f"checkpoints/{PLAYGROUND_NAME}", "relative, so that the data folder can be moved"
    assert brief.random_seed


def test_a_real_checkpoint_has_its_own_sizes_and_steps() -> None:
    brief = made(Form(REAL, orientation="portrait", seconds=8, quality="fine"))
    assert (brief.spec.width, brief.spec.height, brief.spec.num_frames) == (720, 1280, 193)
    assert brief.spec.num_inference_steps == 50
    assert brief.checkpoint == str(REAL.path)
    assert [steps_of(REAL, quality) for quality in ("draft", "standard")] == [10, 20]
    assert size_of(REAL, "landscape") == (1280, 720)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"guidance_scale": 3.5}, {"guidance_scale": 3.5}),
        ({"bridge_guidance_scale": 2}, {"bridge_guidance_scale": 2}),
        ({"negative_prompt": "rain"}, {"negative_prompt": "rain"}),
        ({"seed": " 42 "}, {"seed": 42}),
        ({"num_frames": 9}, {"num_frames": 9}),
        ({"steps": 7}, {"num_inference_steps": 7}),
        ({"fps": 24}, {"fps": 24, "num_frames": 49}),
        ({"video_shift": 3, "audio_shift": 1}, {"video_shift": 3, "audio_shift": 1}),
    ],
)
def test_every_field_has_its_effect(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = made(replace(Form(PLAYGROUND), **changes)).spec
    assert {name: getattr(spec, name) for name in expected} == expected


def test_offload_loudness_and_a_given_seed_reach_the_brief() -> None:
    brief = made(Form(PLAYGROUND, offload="layer", seed="0"), loudness=-14)
    assert (brief.offload, brief.loudness, brief.random_seed) == ("layer", -14, False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_frames": 6}, "num_frames 6 is not of the form 4n + 1; nearest valid: 5 and 9."),
        ({"steps": 0}, "num_inference_steps 0 is outside 1 to 1000; nearest valid: 1."),
        ({"guidance_scale": -1}, "guidance_scale -1 is negative; nearest valid: 0 (1 switches guidance off)."),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number of 0 or more, not nan."),
        ({"guidance_scale": None}, "guidance_scale must be a finite number of 0 or more, not None."),
        ({"fps": 0}, "fps 0 is not above 0; try 24."),
        ({"seed": "blue"}, "seed must be a whole number, not 'blue'."),
        ({"seed": "-1"}, "seed -1 is outside 0 to 9223372036854775807; nearest valid: 0."),
        ({"video_shift": 0}, "video_shift 0 is not above 0; the model was trained with 5."),
    ],
)
def test_what_is_wrong_gets_the_sentence_of_the_library(changes: dict[str, Any], sentence: str) -> None:
    assert compose(replace(Form(PLAYGROUND), **changes), data=DATA) == [sentence]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    broken = replace(REAL, problems=("vae/config.json is missing.",))
    said = compose(Form(broken, num_frames=6, steps=0), data=DATA)
    assert isinstance(said, list)
    assert len(said) == 3


def test_a_broken_checkpoint_is_refused() -> None:
    broken = replace(REAL, problems=("vae/config.json is missing.",))
    assert compose(Form(broken), data=DATA) == ["vae/config.json is missing."]


@pytest.mark.parametrize(
    ("prompt", "long"),
    [("", False), ("gull " * 300, False), ("gull " * 5000, True), ("海" * 500, False), ("海鸥" * 1000, True)],
)
def test_a_prompt_that_is_cut_is_told(prompt: str, long: bool) -> None:
    said = too_long(prompt)
    assert bool(said) is long
    assert not said or "first 512" in said


def test_settings_in_words_name_every_number() -> None:
    brief = made(Form(PLAYGROUND, seed="42", video_shift=3), loudness=-14)
    words = " ".join(in_words(brief).values())
    for value in ("256 × 144", "25 frames", "12 fps", "42", "video 3", "checkpoint's own", "-14 LUFS", PLAYGROUND_NAME):
        assert value in words
