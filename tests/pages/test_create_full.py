"""The Create page in Full Workflow, without a browser or a worker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from agents.sound import MAX_LINES
from app.jobs import Full, Status, Step
from app.store import JobStore
from tests.app.conftest import picture
from tests.pages.test_create import generate, run, shown, start_over, submitted, upload, visit

KEY = "sk-planted-4711"


@pytest.fixture
def page(data: Path) -> AppTest:
    return visit()


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is set up; nobody is there, and nobody is asked."""
    monkeypatch.setenv("STUDIO_PROVIDERS__OLLAMA__BASE_URL", "http://127.0.0.1:9/v1")


def asked(page: AppTest, store: JobStore) -> Full:
    """Press Generate; what the one job that this made asks of the agents."""
    full = submitted(page, store).full
    assert full
    return full


def label(page: AppTest, start: str) -> str:
    (found,) = [expander.label for expander in page.expander if expander.label.startswith(start)]
    return found.replace("\\", "")


def click(page: AppTest, key: str) -> AppTest:
    page.button(key=key).click()
    return run(page)


def boxes(page: AppTest) -> list[str]:
    """The steps for which a model can be chosen."""
    return [str(box.key).removeprefix("model_") for box in page.selectbox if str(box.key).startswith("model_")]


def test_a_first_visit_is_full_workflow_and_runs_with_one_click(page: AppTest, store: JobStore) -> None:
    run(page)
    assert page.segmented_control(key="mode").value == "full"
    assert (label(page, "Sound"), label(page, "Who")) == ("Sound desk · from the idea", "Who does what · Built-in")
    brief = submitted(page, store)
    assert brief.prompt == page.text_area(key="idea").value
    assert brief.prompt.startswith("A red ball bounces")
    assert brief.steps == tuple(Step)
    assert brief.full
    assert not brief.full.review
    assert {model.split(":")[0] for model in brief.full.models.values()} == {"builtin"}


def test_the_page_speaks_chinese(data: Path, store: JobStore) -> None:
    page = run(visit("zh-CN"))
    assert page.text_area(key="idea").value.startswith("一个红色的球")
    assert label(page, "分工") == "分工 · 内置"
    page.segmented_control(key="lang").set_value("en")
    assert run(page).text_area(key="idea").value.startswith("A red ball"), "the example comes along"
    page.segmented_control(key="mode").set_value("simple")
    assert run(page).text_area(key="prompt").value.startswith("A lighthouse"), "and the other one"


@pytest.mark.usefixtures("ollama")
def test_switching_modes_loses_nothing(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="idea").set_value("My own idea")
    page.text_input(key="effects").set_value("thud")
    page.segmented_control(key="candidates").set_value(3)
    page.segmented_control(key="review").set_value(True)
    page.segmented_control(key="quality").set_value("fine")
    page.selectbox(key="model_video_prompt").set_value("ollama:qwen3-vl:8b-instruct")
    click(page, "add_line")
    page.text_input(key="line_0_words").set_value("Hello.")
    page.segmented_control(key="mode").set_value("simple")
    run(page)
    page.text_area(key="prompt").set_value("My own prompt")
    assert page.segmented_control(key="quality").value == "fine"
    run(page)
    assert submitted(page, store).full is None
    page.segmented_control(key="mode").set_value("full")
    run(page)
    assert page.text_input(key="line_0_words").value == "Hello."
    assert page.segmented_control(key="candidates").value == 3
    generate(page)
    brief = store.history()[0].brief
    assert brief.full
    assert (brief.prompt, brief.full.sound.effects) == ("My own idea", "thud")
    assert brief.full.models[Step.VIDEO_PROMPT] == "ollama:qwen3-vl:8b-instruct"
    page.segmented_control(key="mode").set_value("simple")
    assert run(page).text_area(key="prompt").value == "My own prompt"


def test_a_draft_survives_a_reload_and_another_page(page: AppTest, store: JobStore) -> None:
    run(page)
    page.segmented_control(key="painted").set_value(False)
    page.selectbox(key="model_video_prompt").set_value("gemini:gemini-3.8-flash")
    page.segmented_control(key="review").set_value(True)
    click(page, "add_line")
    page.text_input(key="line_0_speaker").set_value("a man")
    run(page)
    page.switch_page("../pages/settings.py")
    run(page)
    page.switch_page("../pages/create.py")
    for again in (run(page), run(visit())):
        assert again.text_input(key="line_0_speaker").value == "a man"
        assert again.segmented_control(key="painted").value is False
        assert again.selectbox(key="model_video_prompt").value == "gemini:gemini-3.8-flash"
        assert again.pills(key="review_after").value == [Step.VIDEO_PROMPT]


def test_start_over_brings_the_example_back_and_keeps_the_mode(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="idea").set_value("My own idea")
    page.selectbox(key="model_video_prompt").set_value("gemini:gemini-3.8-flash")
    click(page, "add_line")
    page.text_input(key="line_0_words").set_value("Hello.")
    start_over(page)
    assert page.text_area(key="idea").value.startswith("A red ball")
    assert page.selectbox(key="model_video_prompt").value == "builtin:rules"
    click(page, "add_line")
    assert page.text_input(key="line_0_words").value == ""
    page.segmented_control(key="mode").set_value("simple")
    run(page)
    start_over(page)
    assert page.segmented_control(key="mode").value == "simple"


# The first frame


def test_a_frame_is_painted_or_white_or_given(page: AppTest, store: JobStore) -> None:
    assert boxes(run(page)) == [*Step]
    page.segmented_control(key="painted").set_value(False)
    assert boxes(run(page)) == ["video_prompt"]
    assert "text only" in shown(page)
    upload(page, picture())
    assert boxes(page) == ["elements", "video_prompt"]
    assert not [control for control in page.segmented_control if control.key in ("painted", "candidates")]
    page.text_area(key="idea").set_value("")
    generate(page)
    assert "The agents will go by the first frame alone" in shown(page)
    click(page, "generate_anyway")
    (job,) = store.history()
    assert job.brief.steps == (Step.ELEMENTS, Step.VIDEO_PROMPT)


def test_several_candidates_are_waited_for_visibly(page: AppTest, store: JobStore) -> None:
    run(page)
    page.segmented_control(key="candidates").set_value(4)
    run(page)
    assert "It paints 4 and then waits for you" in shown(page)
    assert label(page, "Who").endswith("waits for you")
    full = asked(page, store)
    assert (full.candidates, full.review) == (4, {Step.FIRST_FRAME})


# The sound desk


def test_the_sound_desk_reaches_the_brief(page: AppTest, store: JobStore) -> None:
    run(page)
    for place, words in enumerate(["One.", "Two.", "*Three* \U0001f426"]):
        click(page, "add_line")
        page.text_input(key=f"line_{place}_speaker").set_value(f"speaker {place}")
        page.text_input(key=f"line_{place}_words").set_value(words)
    click(page, "remove_line_1")
    assert [page.text_input(key=f"line_{row}_words").value for row in (0, 2)] == ["One.", "*Three* \U0001f426"]
    page.text_input(key="line_2_language").set_value("中文")
    page.text_input(key="ambience").set_value("birds")
    page.text_input(key="music").set_value("a piano")
    page.toggle(key="no_music").set_value(True)
    run(page)
    assert label(page, "Sound") == "Sound desk · 2 lines, Ambience, No music"
    assert page.text_input(key="music").disabled
    sound = asked(page, store).sound
    assert [(line.speaker, line.language, line.words) for line in sound.dialogue] == [
        ("speaker 0", "", "One."),
        ("speaker 2", "中文", "*Three* \U0001f426"),
    ]
    assert (sound.ambience, sound.music, sound.no_music) == ("birds", "", True)


def test_there_is_an_end_of_lines(page: AppTest, store: JobStore) -> None:
    store.keep_form({"lines": [{"speaker": "", "language": "", "words": "Hello."}] * (MAX_LINES - 1)})
    run(page)
    assert not page.button(key="add_line").disabled
    assert click(page, "add_line").button(key="add_line").disabled


@pytest.mark.parametrize(
    ("locale", "sentence"), [("en-GB", "Line 1: A line of dialogue needs"), ("zh-CN", "第 1 句：")]
)
def test_a_line_without_words_is_refused(data: Path, store: JobStore, locale: str, sentence: str) -> None:
    page = run(visit(locale))
    click(page, "add_line")
    assert not page.error, "an empty row is none"
    page.text_input(key="line_0_speaker").set_value("a man")
    generate(page)
    assert sentence in page.error[0].value.replace("\\", "")
    assert store.history() == []


# Wrong input


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("idea", [" \n ", "海" * 10_001])
def test_no_idea_and_too_long_a_one_are_refused(data: Path, store: JobStore, idea: str, locale: str) -> None:
    page = run(visit(locale))
    page.text_area(key="idea").set_value(idea)
    generate(page)
    (error,) = page.error
    assert bool(re.search("[\u4e00-\u9fff]", error.value)) is (locale == "zh-CN")
    assert store.history() == []
    assert page.text_area(key="idea").value == idea


@pytest.mark.parametrize("idea", ['{0} <b>"Q"</b> & $x$ 🐦', "كرة حمراء \u202e", "海 " * 5_000, "**bold** `code`"])
def test_any_words_are_an_idea(page: AppTest, store: JobStore, idea: str) -> None:
    run(page)
    page.text_area(key="idea").set_value(idea)
    assert submitted(page, store).prompt == idea
    assert "only the first" not in shown(page), "the agents read all of it"


# Who does what


def test_a_model_without_its_key_is_refused_before_the_run(page: AppTest, store: JobStore) -> None:
    run(page)
    page.selectbox(key="model_video_prompt").set_value("openai:gpt-6-luna")
    generate(page)
    assert shown(page).replace("\\", "").count("set STUDIO_PROVIDERS__OPENAI__API_KEY") == 2, "there, and by the button"
    (error,) = page.error
    assert error.value.startswith("Video prompt")
    assert "can't start yet" in label(page, "Who")
    assert store.history() == []
    page.selectbox(key="model_video_prompt").set_value("builtin:rules")
    assert asked(page, store).models[Step.VIDEO_PROMPT] == "builtin:rules"


def test_a_refusal_is_said_in_chinese(data: Path, store: JobStore) -> None:
    store.keep_form({"idea": "球", "models": {"first_frame": "nowhere:x"}})
    page = run(visit("zh-CN"))
    generate(page)
    (error,) = page.error
    assert error.value.replace("\\", "").startswith("首帧：")
    assert not re.search("There is no", error.value)


@pytest.mark.usefixtures("ollama")
def test_a_typed_model_is_offered_again(page: AppTest, store: JobStore) -> None:
    store.keep_form({"idea": "A ball", "models": {"video_prompt": "ollama:my-own:7b"}})
    run(page)
    assert page.selectbox(key="model_video_prompt").value == "ollama:my-own:7b"
    assert asked(page, store).models[Step.VIDEO_PROMPT] == "ollama:my-own:7b"


@pytest.mark.usefixtures("ollama")
def test_what_leaves_the_machine_is_said(page: AppTest, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "leaves this machine" not in shown(run(page))
    assert "The built-in goes by rules" in shown(page)
    monkeypatch.setenv("STUDIO_PROVIDERS__OPENAI__API_KEY", KEY)
    monkeypatch.setenv("STUDIO_PROVIDERS__OLLAMA__BASE_URL", "http://localhost:11434/v1")
    page = run(visit())
    assert "Your idea and the first frame leave this machine: they are sent to OpenAI" in shown(page).replace("\\", "")
    assert "The built-in goes by rules" not in shown(page)
    for step in ("image_prompt", "elements", "video_prompt"):
        page.selectbox(key=f"model_{step}").set_value("ollama:qwen3-vl:8b-instruct")
    text = shown(run(page)).replace("\\", "")
    assert "Your idea leaves this machine: it is sent to OpenAI" in text
    assert "sent to Ollama" not in text
    assert {model.split(":")[0] for model in asked(page, store).models.values()} == {"openai", "ollama"}
    assert KEY not in text + str(page)


def test_an_idea_that_nobody_chose_for_goes_to_what_is_set_up_later(
    page: AppTest, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(page)
    page.selectbox(key="model_elements").set_value("gemini:gemini-3.8-flash")
    run(page)
    page.selectbox(key="model_elements").set_value("builtin:measure")
    run(page)
    monkeypatch.setenv("STUDIO_PROVIDERS__GEMINI__API_KEY", KEY)
    models = asked(run(visit()), store).models
    assert {model.split(":")[0] for model in models.values()} == {"gemini"}


# Review


def test_review_waits_where_it_is_ticked(page: AppTest, store: JobStore) -> None:
    run(page)
    page.segmented_control(key="review").set_value(True)
    run(page)
    assert page.pills(key="review_after").value == [Step.FIRST_FRAME, Step.VIDEO_PROMPT]
    page.pills(key="review_after").set_value([Step.IMAGE_PROMPT, Step.VIDEO_PROMPT])
    run(page)
    upload(page, picture())
    assert page.pills(key="review_after").value == [Step.VIDEO_PROMPT]
    page.pills(key="review_after").set_value([])
    run(page)
    assert "Nothing is ticked" in shown(page)
    click(page, "first_frame_remove")
    assert page.pills(key="review_after").value == [Step.IMAGE_PROMPT], "kept for when that step is there again"
    assert asked(page, store).review == {Step.IMAGE_PROMPT}


def test_each_take_has_agents_of_its_own(page: AppTest, store: JobStore) -> None:
    run(page)
    assert "runs the agents anew" not in shown(page)
    page.number_input(key="takes").set_value(2)
    assert "Each take runs the agents anew" in shown(run(page))
    generate(page)
    assert [job.brief.full is not None for job in store.history()] == [True, True]


@pytest.mark.usefixtures("ollama")
def test_make_another_fills_full_workflow_with_all_of_it(page: AppTest, store: JobStore) -> None:
    run(page)
    page.text_area(key="idea").set_value("My own idea")
    page.segmented_control(key="candidates").set_value(2)
    page.segmented_control(key="review").set_value(True)
    page.selectbox(key="model_video_prompt").set_value("ollama:qwen3-vl:8b-instruct")
    page.text_input(key="music").set_value("a piano")
    click(page, "add_line")
    page.text_input(key="line_0_words").set_value("Hello.")
    first = submitted(page, store)
    (job,) = store.history()
    store.claim()
    store.save(job.id, job.draft.model_copy(update={"clip": f"{job.folder}/clip.mp4"}))
    store.close(job.id, Status.DONE)
    start_over(page)
    page.segmented_control(key="mode").set_value("simple")
    run(page)
    page.text_area(key="prompt").set_value("My own prompt")
    page.query_params["job"] = job.id
    click(run(page), "another")
    assert page.text_area(key="idea").value == "My own idea"
    assert page.text_input(key="line_0_words").value == "Hello."
    generate(page)
    second = store.history()[0].brief
    assert second.model_dump(exclude={"spec"}) == first.model_dump(exclude={"spec"})
    page.segmented_control(key="mode").set_value("simple")
    assert run(page).text_area(key="prompt").value == "My own prompt"
