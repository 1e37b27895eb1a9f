from __future__ import annotations

import pytest
from pydantic import ValidationError

from agents.sound import MAX_CHARACTERS, MAX_LINES, Line, Sound


def problem(error: pytest.ExceptionInfo[ValidationError]) -> str:
    return str(error.value.errors()[0]["msg"])


def test_the_material_stands_in_the_trained_order_and_empty_fields_are_left_out() -> None:
    sound = Sound(
        music="a slow cello",
        ambience="rain",
        effects="a door slams",
        dialogue=(Line(speaker="the girl", language="Mandarin", words="还有热的吗？"), Line(words="Yes.")),
    )
    assert list(sound.material().items()) == [
        ("dialogue", 'the girl | Mandarin | "还有热的吗？"\n |  | "Yes."'),
        ("effects", "a door slams"),
        ("ambience", "rain"),
        ("music", "a slow cello"),
    ]


def test_no_music_is_said_in_words() -> None:
    assert Sound(no_music=True).material() == {"music": "no music"}


def test_a_desk_without_anything_is_empty() -> None:
    assert Sound().empty
    assert Sound(effects="  \n ").empty
    assert not Sound(no_music=True).empty


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ('"Hello."', "Hello."),
        ("“你好”", "你好"),
        ("「你好」", "你好"),
        ('He said "no".', 'He said "no".'),
        ('"No," she said, "never"', '"No," she said, "never"'),
        ("  two\nrows ", "two rows"),
        ("{braces} 🌧 </idea>", "{braces} 🌧 </idea>"),
    ],
)
def test_the_marks_around_a_line_are_taken_off_and_those_within_it_kept(typed: str, words: str) -> None:
    assert Line(words=typed).words == words


@pytest.mark.parametrize("words", ["", "  ", '""', "“ ”"])
def test_a_line_needs_words(words: str) -> None:
    with pytest.raises(ValidationError) as error:
        Line(words=words)
    assert problem(error) == "A line of dialogue needs the words that are spoken."


def test_a_bar_in_a_speakers_name_is_no_column() -> None:
    sound = Sound(dialogue=(Line(speaker="Ann | Bob", language="en|fr", words="a | b"),))
    assert sound.material()["dialogue"] == 'Ann / Bob | en/fr | "a | b"'


def test_too_many_lines_are_refused_with_a_sentence() -> None:
    line = Line(words="Hi")
    assert len(Sound(dialogue=(line,) * MAX_LINES).dialogue) == MAX_LINES
    with pytest.raises(ValidationError) as error:
        Sound(dialogue=(line,) * (MAX_LINES + 1))
    assert problem(error) == "Dialogue: 13 lines; at most 12."


@pytest.mark.parametrize("field", ["effects", "ambience", "music"])
def test_a_long_field_is_refused_with_a_sentence(field: str) -> None:
    Sound.model_validate({field: "x" * MAX_CHARACTERS})
    with pytest.raises(ValidationError) as error:
        Sound.model_validate({field: "x" * (MAX_CHARACTERS + 1)})
    assert problem(error) == f"{field.capitalize()}: 501 characters; at most 500."


@pytest.mark.parametrize("field", ["speaker", "language", "words"])
def test_a_long_field_of_a_line_is_refused_with_a_sentence(field: str) -> None:
    with pytest.raises(ValidationError) as error:
        Line.model_validate({"words": "Hi", field: "x" * 501})
    assert problem(error) == f"{field.capitalize()}: 501 characters; at most 500."


def test_music_and_no_music_cannot_both_be_wanted() -> None:
    with pytest.raises(ValidationError) as error:
        Sound(music="a cello", no_music=True)
    assert problem(error) == "Either describe the music or ask for none, not both."


def test_a_desk_can_be_stored_and_read_again() -> None:
    sound = Sound(dialogue=(Line(speaker="她", words='He said "no".'),), no_music=True)
    assert Sound.model_validate_json(sound.model_dump_json()) == sound
    with pytest.raises(ValidationError):
        sound.music = "a cello"  # type: ignore[misc]
