"""The prompts that the built-in writes: the creator's own words, in the form that the models were trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from agents.answers import usable
from agents.builtin.idea import first_moment, looks, shot, sounds
from agents.builtin.measure import CAVEAT
from agents.builtin.phrases import NO_MUSIC, SEEN_AND_HEARD
from agents.builtin.scene import names_a_colour
from agents.builtin.sentences import (
    ended,
    lower_first,
    mostly_ideographs,
    one_line,
    sentences,
    shortened,
    softened,
    upper_first,
)
from agents.builtin.speech import Quote, Role, quoted
from agents.checker import MAX_WORDS, words_in
from agents.elements import TEXT_MARKS, Elements
from agents.models import Written
from agents.quotation import MARKS, parts, quotations, quotes
from agents.troubles import AgentError

LONGEST_SOUND = 70  # words of the last paragraph
LONGEST_OPENING = 60  # words
LONGEST_ACTION = 160  # characters of the idea that are repeated for the sound of what is seen
MOST_COLOURS = 3  # of the measured first frame that are named
MOST_TEXTS = 6  # of the first frame that are quoted
NO_SUBTITLES = re.compile(r"this video has no subtitles\.?\s*", re.IGNORECASE)

_AUDIO = re.compile(r"(?:^|(?<=[.!?。！？\s\"”]))The audio (?:shows|includes)\b")
_MORE_THAN_ONE = ("no speakers", "one speaker", "two speakers", "three speakers", "four speakers", "five speakers")


@dataclass(frozen=True)
class Line:
    """A line of dialogue from the sound desk; speaker and language may be empty."""

    speaker: str
    language: str
    words: str


def image_prompt(material: Mapping[str, str]) -> str:
    """The first frame: shot size and camera angle, style and light, then what the idea shows at its beginning."""
    idea = material.get("idea", "")
    comma, stop = ("，", "。") if mostly_ideographs(shot(idea)) else (", ", ". ")
    head = comma.join([shot(idea), *looks(idea)]) + stop
    prompt = f"{head}{upper_first(ended(first_moment(idea)))}".strip()
    longest = material.get("longest", "").strip()
    prompt = shortened(prompt, MAX_WORDS)
    return _fitted(prompt, int(longest)) if longest.isdecimal() else prompt


def shorter(material: Mapping[str, str]) -> str:
    """The image prompt in as many characters as it may have."""
    return _fitted(material.get("image_prompt", "").strip(), int(material["longest"]))


def video_prompt(material: Mapping[str, str]) -> str:
    """The clip: the first frame's look and the idea with its dialogue, then the sound in a paragraph of its own."""
    idea = _straight(NO_SUBTITLES.sub("", material.get("idea", "").strip()))
    lines = [line for line in _lines(material.get("dialogue", "")) if line.words not in quotes(idea)]
    spoken = " ".join(_spoken(line) for line in lines)
    seen = Elements.from_text(material.get("elements", ""))
    story, audio = _told(idea)
    read, opening = ("", "") if audio else (_read(seen, idea), _opening(seen, idea))
    audio = audio or shortened(_audio(idea, lines, material), LONGEST_SOUND)
    room = MAX_WORDS - words_in(spoken) - words_in(read) - words_in(audio)
    story = shortened(upper_first(ended(one_line(_seen(softened(story))))), max(room, 1))
    if words_in(opening) > room - words_in(story):
        opening = ""
    told = " ".join(part for part in (opening, story, spoken, read) if part)
    if not told or _begins_like_an_answer(told):
        told = f"The scene opens{': ' if told else '.'}{told}"
    return f"{told}\n\n{upper_first(one_line(audio))}"


def _begins_like_an_answer(told: str) -> bool:
    """Whether an idea begins as a model's refusal or preamble does, which is cut off where answers are tidied."""
    try:
        return usable(Written(told)).text[:12] != told[:12]
    except AgentError:
        return True


def _seen(story: str) -> str:
    """The story without "no music", which the last paragraph says."""
    return "".join(part for part in sentences(story) if not NO_MUSIC.fullmatch(part.strip(" .!。！\n")))


def _fitted(prompt: str, longest: int) -> str:
    """The prompt in that many characters; where its quotes alone are too long, they are cut like all else."""
    fitted = shortened(prompt, longest, len)
    return fitted if len(fitted) <= longest else prompt[:longest].rsplit(" ", 1)[0][:longest]


def _lines(dialogue: str) -> list[Line]:
    """The sound desk's lines: ``speaker | language | "the words"``."""
    found = []
    for row in dialogue.splitlines():
        *names, words = (part.strip() for part in row.split("|", 2))
        speaker, language, *_ = (*names, "", "")
        spoken = words[1:-1] if words[:1] == words[-1:] == '"' else words
        if spoken.strip():
            found.append(Line(speaker, language, spoken))
    return found


def _straight(text: str) -> str:
    """Straight double marks around what is quoted, as the model was trained; not where others stand within."""
    pieces = []
    for part, marked in parts(text):
        plain = marked and not any(mark in MARKS for mark in part[1:-1])
        pieces.append(f'"{part[1:-1]}"' if plain else part)
    return "".join(pieces)


def _told(idea: str) -> tuple[str, str]:
    """The idea's story and, if it has the form already, its paragraph on the sound."""
    plain = "".join(" " * len(part) if quoted else part for part, quoted in parts(idea))
    found = _AUDIO.search(plain)
    return (idea[: found.start()].strip(), idea[found.start() :].strip()) if found else (idea, "")


def _spoken(line: Line) -> str:
    who = softened(line.speaker) or "a voice"
    language = f" in {softened(line.language)}" if line.language else ""
    stop = "" if line.words.endswith(tuple(".!?。！？…")) else "."
    return f"{upper_first(who)} says{language}: {_marked(line.words)}{stop}"


def _marked(words: str) -> str:
    """The words in straight marks, as the model was trained; other ones within or around them if they hold some.

    So the end of the speech is where its second mark is, and not where a quotation in it begins.
    """
    inner = "".join(f"'{part[1:-1]}'" if marked and part[0] == '"' else part for part, marked in parts(words))
    ways = [(inner, '"', '"'), *((words, left, right) for left, right in TEXT_MARKS[1:])]
    clear = (
        f"{left}{said}{right}"
        for said, left, right in ways
        if left not in said and right not in said and quotes(f"{left}{said}{right}") == (said,)
    )
    return next(clear, f'"{words}"')


def _read(seen: Elements, idea: str) -> str:
    """What can be read in the first frame, as far as the idea doesn't have it."""
    found = [words for words in seen.text if words not in idea and not any(mark in MARKS for mark in words)]
    short = [words for words in found if words_in(words) <= LONGEST_OPENING / 2][:MOST_TEXTS]
    return "The picture shows the words " + ", ".join(f'"{words}"' for words in short) + "." if short else ""


def _opening(seen: Elements, idea: str) -> str:
    """The first frame's state; the measured one loses its figures and the sentence that says it was measured."""
    if CAVEAT in seen.elements:
        return softened(_measured(re.sub(r"\s*\([^()]*%\)", "", seen.style).strip().rstrip("."), idea))
    state = shortened(_unmarked(seen.elements), LONGEST_OPENING)
    style = _unmarked(seen.style)
    first = sentences(style)[0].strip().rstrip(".") if style else ""
    opening = f"The scene opens: {lower_first(ended(state))}" if state else ""
    look = f"The look stays {lower_first(first)}." if first else ""
    return softened(" ".join(part for part in (opening, look) if part))


def _measured(style: str, idea: str) -> str:
    """The brightness of a measured frame, and the colours that take most of it unless the idea has its own."""
    palette, _, light = style.partition("; ")
    colours = re.split(r", | and ", palette)[:MOST_COLOURS] if palette and not names_a_colour(idea) else []
    if not colours:
        return f"The first frame is {light}." if light else ""
    named = f"{', '.join(colours[:-1])} and {colours[-1]}" if len(colours) > 1 else colours[0]
    return "; ".join(part for part in (f"The scene opens in {named[:1].lower()}{named[1:]}", light) if part) + "."


def _unmarked(text: str) -> str:
    """The text without quotation marks: only what the creator wrote, or what is read in the picture, is quoted."""
    while quotations(text):
        text = "".join(part[1:-1] if quoted else part for part, quoted in parts(text))
    return text.strip()


def _audio(idea: str, lines: list[Line], material: Mapping[str, str]) -> str:
    """The last paragraph: speech, effects, ambience, music; of all only what was given or is named in the idea."""
    named = sounds(idea)
    effects = _given(material, "effects") or ", ".join(named.effects)
    ambience = _given(material, "ambience") or ", ".join(named.ambience)
    music = _given(material, "music") or named.music
    parts = [_speech([quote for quote in quoted(idea) if quote.role is Role.SPEECH], lines)]
    parts += [f"sound effects: {effects}" if effects else "", f"ambience: {ambience}" if ambience else ""]
    silent = bool(NO_MUSIC.fullmatch(music))
    if not any(parts) and (silent or not music):
        parts = [_action(idea)]
    parts += [music if silent or not music else f"music: {music}"]
    first, *others = [part for part in parts if part]
    return " ".join([f"The audio shows {ended(first)}", *(ended(upper_first(part)) for part in others)])


def _given(material: Mapping[str, str], name: str) -> str:
    return one_line(_straight(material.get(name, ""))).rstrip(".。 ")


def _speech(said: list[Quote], lines: list[Line]) -> str:
    """How many speak, who they are, and the languages that were given."""
    if not said and not lines:
        return ""
    names: dict[str, str] = {}
    for quote in said:
        names.setdefault(_same(names, quote.speaker), quote.speaker)
    for line in lines:
        names[_same(names, line.speaker)] = " in ".join(part for part in (line.speaker, line.language) if part)
    speakers, told = names.keys(), names.values()
    count = _MORE_THAN_ONE[len(speakers)] if len(speakers) < len(_MORE_THAN_ONE) else f"{len(speakers)} speakers"
    named = ", ".join(lower_first(name) for name in told if name)
    return f"{count}: {named}" if named else count


def _same(names: Mapping[str, str], speaker: str) -> str:
    """By what a speaker is known: "the fisherman" is "an old fisherman", who was named before."""
    bare = re.sub(r"^(?:an?|the|one)\s+", "", speaker.casefold())
    return next((name for name in names if bare and name.endswith((" " + bare, "的" + bare))), bare)


def _action(idea: str) -> str:
    """Where no sound is named: that of what is seen, and no other; what moves is named if it can be heard."""
    seen = one_line(first_moment(idea))
    first = sentences(seen)[0].strip().rstrip(".!?。！？ ") if seen else ""
    plain = 0 < len(first) <= LONGEST_ACTION and not quotations(first) and SEEN_AND_HEARD.search(first)
    return f"the sound of what is seen: {lower_first(first)}" if plain else "the sound of what is seen"
