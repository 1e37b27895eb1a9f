"""The sound desk: what a creator wants to be heard, apart from the picture."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agents.quotation import unquoted

MAX_LINES = 12  # more than can be said in the eight seconds that the model was trained on
MAX_CHARACTERS = 500  # of each field
NO_MUSIC = "no music"


def _short(text: str, info: ValidationInfo) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_CHARACTERS:
        raise _problem(f"{str(info.field_name).capitalize()}: {len(text)} characters; at most {MAX_CHARACTERS}.")
    return text


def _problem(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("sound", "{problem}", {"problem": sentence})


Short = Annotated[str, AfterValidator(_short)]


class Line(BaseModel, frozen=True, extra="forbid"):
    """One spoken line. ``words`` stand without the quotation marks that the creator may have put around them."""

    speaker: Short = ""
    language: Short = ""
    words: Short

    @field_validator("words")
    @classmethod
    def _spoken(cls, words: str) -> str:
        if not (spoken := unquoted(words)):
            raise _problem("A line of dialogue needs the words that are spoken.")
        return spoken


class Sound(BaseModel, frozen=True, extra="forbid"):
    """All that is to be heard; what is empty is left to the rewriter, and ``no_music`` forbids it to add any."""

    dialogue: tuple[Line, ...] = ()
    effects: Short = ""
    ambience: Short = ""
    music: Short = ""
    no_music: bool = False

    @field_validator("dialogue")
    @classmethod
    def _few(cls, dialogue: tuple[Line, ...]) -> tuple[Line, ...]:
        if len(dialogue) > MAX_LINES:
            raise _problem(f"Dialogue: {len(dialogue)} lines; at most {MAX_LINES}.")
        return dialogue

    @model_validator(mode="after")
    def _music_or_none(self) -> Sound:
        if self.music and self.no_music:
            raise _problem("Either describe the music or ask for none, not both.")
        return self

    @property
    def empty(self) -> bool:
        """Whether the creator said nothing about the sound."""
        return not self.material()

    def material(self) -> dict[str, str]:
        """What a writer reads, in the order of the captions that the model was trained on; empty fields left out."""
        entries = {
            "dialogue": "\n".join(_row(line) for line in self.dialogue),
            "effects": self.effects,
            "ambience": self.ambience,
            "music": NO_MUSIC if self.no_music else self.music,
        }
        return {name: text for name, text in entries.items() if text}


def _row(line: Line) -> str:
    speaker, language = (field.replace("|", "/") for field in (line.speaker, line.language))
    return f'{speaker} | {language} | "{line.words}"'
