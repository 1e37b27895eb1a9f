from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.models import Endpoint
from agents.sound import MAX_CHARACTERS, Line, Sound
from app.drafts import as_content, fitting
from app.form import (
    AS_MADE,
    KEPT,
    LONGEST_IDEA,
    LOUDNESS,
    QUALITIES,
    Form,
    compose,
    in_words,
    length_of,
    level,
    size_of,
    steps_of,
    too_long,
)
from app.jobs import Brief, Step
from app.texts import Language
from mova.layout import PLAYGROUND_NAME, CheckpointInfo

DATA = Path("/studio/data")
PLAYGROUND = CheckpointInfo(DATA / "checkpoints" / PLAYGROUND_NAME, PLAYGROUND_NAME, (), ())
REAL = CheckpointInfo(Path("/models/MOVA-720p"), "MOVA-720p", (), ())


def simple(checkpoint: CheckpointInfo, **fields: Any) -> Form:
    return Form(checkpoint, mode="simple", **fields)


def made(form: Form) -> Brief:
    brief = compose(form, data=DATA)
    assert isinstance(brief, Brief), brief
    return brief


def test_the_form_as_it_starts_is_a_brief() -> None:
    brief = made(simple(PLAYGROUND, prompt="A gull."))
    spec = brief.spec
    assert (spec.width, spec.height, spec.num_frames, spec.fps, spec.num_inference_steps) == (256, 144, 25, 12, 4)
    assert brief.checkpoint == f"checkpoints/{PLAYGROUND_NAME}", "relative, so that the data folder can be moved"
    assert brief.random_seed


def test_a_real_checkpoint_has_its_own_sizes_and_steps() -> None:
    brief = made(simple(REAL, orientation="portrait", seconds=8, quality="fine"))
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
def test_every_number_has_its_effect(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = made(replace(simple(PLAYGROUND), **changes)).spec
    assert {name: getattr(spec, name) for name in expected} == expected


def test_what_is_no_number_of_the_clip_reaches_the_brief() -> None:
    form = simple(
        PLAYGROUND,
        offload="layer",
        preset="fast",
        loudness="-14",
        seed="0",
        first_frame="drafts/a.png",
        last_frame="drafts/b.png",
        first_frame_position=0,
        last_frame_position=75,
    )
    brief = made(form)
    assert (brief.offload, brief.preset, brief.loudness, brief.random_seed) == ("layer", "fast", -14, False)
    assert (brief.first_frame, brief.last_frame) == ("drafts/a.png", "drafts/b.png")
    assert (brief.first_frame_position, brief.last_frame_position) == ((0, 0), (0.75, 0.75))


WRONG = [
    ({"num_frames": 6}, "Frames 6 is not of the form 4n + 1; nearest valid: 5 and 9."),
    ({"steps": 0}, "Steps 0 is outside 1 to 1000; nearest valid: 1."),
    ({"guidance_scale": -1}, "Guidance -1 is negative; nearest valid: 0 (1 switches guidance off)."),
    ({"guidance_scale": float("nan")}, "Guidance must be a finite number of 0 or more, not nan."),
    ({"guidance_scale": None}, "Guidance must be a finite number of 0 or more, not None."),
    ({"seed": "blue"}, "Seed must be a whole number, not 'blue'."),
    ({"seed": "-1"}, "Seed -1 is outside 0 to 9223372036854775807; nearest valid: 0."),
    ({"video_shift": 0}, "Video shift 0 is not above 0; the model was trained with 5."),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_what_is_wrong_gets_the_sentence_of_the_library_in_the_words_of_the_form(
    changes: dict[str, Any], sentence: str
) -> None:
    assert compose(replace(simple(PLAYGROUND), **changes), data=DATA) == [sentence]


@pytest.mark.parametrize(
    "changes", [*(changes for changes, _ in WRONG), {"fps": 0}, {"fps": None, "num_frames": 10**6 + 1}]
)
def test_what_is_wrong_is_said_in_chinese_with_its_figures(changes: dict[str, Any]) -> None:
    form = replace(simple(PLAYGROUND), **changes)
    (english,) = compose(form, data=DATA)
    (chinese,) = compose(form, data=DATA, language=Language.ZH)
    assert re.search("[\u4e00-\u9fff]", chinese)
    assert not re.findall("[a-z]{4,}", chinese.replace("None", "").replace("blue", ""))
    assert set(re.findall(r"\d+", english)) == set(re.findall(r"\d+", chinese))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    broken = replace(REAL, problems=("vae/config.json is missing.",))
    said = compose(simple(broken, num_frames=6, steps=0), data=DATA)
    assert isinstance(said, list)
    assert len(said) == 3


def test_a_broken_checkpoint_is_refused() -> None:
    broken = replace(REAL, problems=("vae/config.json is missing.",))
    assert compose(simple(broken), data=DATA) == ["vae/config.json is missing."]


@pytest.mark.parametrize(
    ("prompt", "long"),
    [("", False), ("gull " * 300, False), ("gull " * 5000, True), ("海" * 500, False), ("海鸥" * 1000, True)],
)
def test_a_prompt_that_is_cut_is_told(prompt: str, long: bool) -> None:
    for language in Language:
        said = too_long(prompt, language)
        assert bool(said) is long
        assert not said or "512" in said


@pytest.mark.parametrize("language", Language)
def test_settings_in_words_name_every_number(language: Language) -> None:
    brief = made(simple(PLAYGROUND, seed="42", video_shift=3, loudness="-14"))
    words = in_words(brief, language)
    assert len(words) == 12
    for value in ("256 × 144", "25", "12", "2.08", "42", "3", "−14 LUFS", PLAYGROUND_NAME):
        assert any(value in said for said in words.values()), value


# A draft of the form


@pytest.mark.parametrize("checkpoint", [PLAYGROUND, REAL])
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_brief_goes_back_into_the_form_as_it_was_filled_in(checkpoint: CheckpointInfo, quality: Any) -> None:
    form = simple(
        checkpoint,
        prompt="A gull.",
        orientation="portrait",
        seconds=1.5,
        quality=quality,
        guidance_scale=3.0,
        bridge_guidance_scale=3.5,
        negative_prompt="rain",
        seed="42",
        video_shift=4.0,
        offload="component",
        preset="light",
        loudness="-23",
        first_frame_position=10,
        last_frame_position=90,
    )
    content = as_content(made(form), DATA)
    assert content["checkpoint"] == str(checkpoint.path)
    assert Form(checkpoint, **fitting(content, checkpoint, {})) == form


def test_what_was_overruled_stays_so() -> None:
    form = simple(PLAYGROUND, num_frames=13, steps=7, fps=24.0, seconds=0.5)
    again = Form(PLAYGROUND, **fitting(as_content(made(form), DATA), PLAYGROUND, {}))
    assert (again.steps, again.fps) == (7, 24.0)
    assert made(again).spec.num_frames == 13


def test_a_clip_longer_than_the_form_goes_keeps_its_frames() -> None:
    form = simple(PLAYGROUND, num_frames=241)
    again = Form(PLAYGROUND, **fitting(as_content(made(form), DATA), PLAYGROUND, {}))
    assert (again.seconds, again.num_frames) == (8.0, 241)


def test_a_seed_that_was_drawn_is_drawn_again() -> None:
    brief = made(simple(PLAYGROUND))
    drawn = brief.model_copy(update={"spec": brief.spec.model_copy(update={"seed": 99})})
    assert as_content(drawn, DATA)["seed"] == ""


def test_an_empty_draft_is_the_form_as_it_starts() -> None:
    start = fitting({}, REAL, {"prompt": "The example"})
    assert set(start) == set(KEPT)
    assert Form(REAL, **start) == Form(REAL, prompt="The example", seconds=length_of(REAL))


@pytest.mark.parametrize(
    "content",
    [
        {"takes": 0},
        {"takes": "many"},
        {"seconds": 60},
        {"quality": "best"},
        {"orientation": None},
        {"loudness": "loud"},
        {"offload": 3},
        {"preset": "slow"},
        {"first_frame_position": 200},
        {"prompt": ["a", "list"]},
    ],
)
def test_what_is_no_value_of_a_field_is_passed_over(content: dict[str, Any]) -> None:
    assert fitting(content, PLAYGROUND, {}) == fitting({}, PLAYGROUND, {})


def test_loudness_is_held_as_text() -> None:
    assert [level(value) for value in (None, -14.0, -16.5)] == [AS_MADE, "-14", "-16.5"]
    assert LOUDNESS[0] == AS_MADE


# Full Workflow

KEYS = {"openai": Endpoint.model_validate({"api_key": "sk-planted"})}


def full(**fields: Any) -> Form:
    return Form(PLAYGROUND, **{"idea": "A red ball bounces.", **fields})


def said(form: Form, language: Language = Language.EN) -> list[str]:
    sentences = compose(form, data=DATA, language=language)
    assert isinstance(sentences, list)
    return sentences


def test_an_idea_goes_through_every_step_by_the_built_in_where_nothing_else_is_set_up() -> None:
    brief = made(full(prompt="Simple mode's own words"))
    assert brief.prompt == "A red ball bounces."
    assert brief.full
    assert brief.full.models == {
        "image_prompt": "builtin:rules",
        "first_frame": "builtin:pillow",
        "elements": "builtin:measure",
        "video_prompt": "builtin:rules",
    }
    assert (brief.full.review, brief.full.painted, brief.full.candidates) == (frozenset(), True, 1)
    assert brief.full.sound.empty


def test_simple_mode_asks_no_agents() -> None:
    brief = made(simple(PLAYGROUND, prompt="A gull.", idea="A ball", candidates=4, effects="thud"))
    assert (brief.prompt, brief.full) == ("A gull.", None)


def test_what_was_set_up_goes_first_and_a_choice_before_it() -> None:
    form = full(first_frame="drafts/a.png", models={Step.VIDEO_PROMPT: "openai:gpt-x", Step.ELEMENTS: ""})
    brief = compose(form, data=DATA, endpoints=KEYS)
    assert isinstance(brief, Brief)
    assert brief.full
    assert set(brief.full.models) == {Step.ELEMENTS, Step.VIDEO_PROMPT}
    assert brief.full.models[Step.VIDEO_PROMPT] == "openai:gpt-x"
    assert brief.full.models[Step.ELEMENTS].startswith("openai:")


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, tuple(Step)),
        ({"painted": False}, (Step.VIDEO_PROMPT,)),
        ({"first_frame": "drafts/a.png"}, (Step.ELEMENTS, Step.VIDEO_PROMPT)),
        ({"mode": "simple"}, ()),
    ],
)
def test_the_steps_are_those_of_the_brief(fields: dict[str, Any], steps: tuple[Step, ...]) -> None:
    form = full(**fields)
    assert form.agent_steps == made(form).steps == steps


@pytest.mark.parametrize(
    ("fields", "waits"),
    [
        ({}, set()),
        ({"review": True}, {Step.FIRST_FRAME, Step.VIDEO_PROMPT}),
        ({"review": True, "painted": False}, {Step.VIDEO_PROMPT}),
        ({"review": True, "review_steps": []}, set()),
        ({"candidates": 3}, {Step.FIRST_FRAME}),
        ({"candidates": 3, "review": True, "review_steps": [Step.ELEMENTS]}, {Step.FIRST_FRAME, Step.ELEMENTS}),
        ({"candidates": 3, "first_frame": "drafts/a.png"}, set()),
    ],
)
def test_it_waits_where_it_was_told_to_and_for_a_choice_of_candidates(fields: dict[str, Any], waits: set[Step]) -> None:
    brief = made(full(**fields))
    assert brief.full
    assert brief.full.review == waits


def test_the_sound_desk_reaches_the_brief_without_its_empty_rows() -> None:
    rows = [
        {"speaker": " ", "language": "", "words": ""},
        {"speaker": "a woman", "language": "English", "words": "“Look!”"},
    ]
    form = full(lines=rows, effects="thud", ambience="birds", music="a piano", no_music=True)
    brief = made(form)
    assert brief.full
    line = Line(speaker="a woman", language="English", words="Look!")
    assert brief.full.sound == Sound(dialogue=(line,), effects="thud", ambience="birds", no_music=True)


WRONG_IDEAS: list[tuple[dict[str, Any], str]] = [
    ({"idea": " \n"}, "write an idea"),
    ({"idea": "x" * (LONGEST_IDEA + 1)}, "10,001 characters; at most 10,000"),
    ({"effects": "x" * (MAX_CHARACTERS + 1)}, "501 characters; at most 500"),
    ({"lines": [{}, {"speaker": "a man", "language": "", "words": "“”"}]}, "Line 2: A line of dialogue needs"),
    ({"lines": [{"words": "Hello."}] * 13}, "13 lines; at most 12"),
    ({"models": {Step.VIDEO_PROMPT: "nowhere:x"}}, "Video prompt: There is no provider nowhere"),
    (
        {"models": {Step.VIDEO_PROMPT: "openai", Step.IMAGE_PROMPT: "openai"}},
        "Image prompt, Video prompt: OpenAI",
    ),
    ({"models": {Step.FIRST_FRAME: "ollama:x"}}, "First frame: Ollama can't do this"),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG_IDEAS)
def test_what_is_wrong_is_said_before_anything_runs(fields: dict[str, Any], sentence: str) -> None:
    (english,) = said(full(**fields))
    assert sentence in english
    (chinese,) = said(full(**fields), Language.ZH)
    assert re.search("[\u4e00-\u9fff]", chinese)
    assert not re.search("[a-z]{4,} [a-z]{3,}", re.sub(r"\S*[_./:]\S*", "", chinese)), "no English sentence is left"


def test_a_frame_needs_no_idea_and_ten_thousand_characters_are_an_idea() -> None:
    made(full(idea="", first_frame="drafts/a.png"))
    made(full(idea='{0} "“❝🐦\u202eאב</idea>'.ljust(LONGEST_IDEA, "海")))


def test_what_is_wrong_with_the_numbers_is_said_with_the_rest() -> None:
    assert len(said(full(idea="", num_frames=6, models={Step.VIDEO_PROMPT: "nowhere"}))) == 3


FULL_FORMS: list[dict[str, Any]] = [
    {},
    {"painted": False},
    {"candidates": 3},
    {"review": True, "review_steps": [Step.IMAGE_PROMPT, Step.VIDEO_PROMPT]},
    {
        "candidates": 2,
        "review": True,
        "review_steps": [Step.ELEMENTS],
        "models": dict.fromkeys(Step, "builtin"),
        "lines": [{"speaker": "a man", "language": "中文", "words": "你好。"}],
        "effects": "thud",
        "ambience": "birds",
        "music": "a piano",
    },
    {"no_music": True},
]


@pytest.mark.parametrize("fields", FULL_FORMS)
def test_a_full_brief_goes_back_into_the_form(fields: dict[str, Any]) -> None:
    form = full(**fields)
    brief = made(form)
    again = Form(PLAYGROUND, **fitting(as_content(brief, DATA), PLAYGROUND, {"prompt": "The example"}))
    assert made(again) == brief
    assert replace(again, models=form.models, prompt="") == form
    assert again.prompt == "The example"


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        ({}, "full"),
        ({"prompt": "My own words"}, "simple"),
        ({"prompt": "My own words", "mode": "full"}, "full"),
        ({"mode": "simple"}, "simple"),
        ({"mode": "other"}, "full"),
    ],
)
def test_a_draft_from_before_the_choice_is_simple_modes(content: dict[str, Any], mode: str) -> None:
    assert fitting(content, PLAYGROUND, {})["mode"] == mode


@pytest.mark.parametrize(
    "content",
    [
        {"candidates": 5},
        {"lines": ["Hello."]},
        {"lines": [{"words": "Hello."}] * 13},
        {"lines": [{"shouts": "Hello."}]},
        {"models": {"render": "builtin"}},
        {"review_steps": ["render"]},
        {"painted": "perhaps"},
    ],
)
def test_what_is_no_value_of_full_workflow_is_passed_over(content: dict[str, Any]) -> None:
    assert fitting(content, PLAYGROUND, {}) == fitting({}, PLAYGROUND, {})
