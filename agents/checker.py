"""Whether a video prompt keeps the rules that the model was trained by: pure code, no model."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from enum import StrEnum

from pydantic import BaseModel

from agents.quotation import DOUBLES, MARKS, outside, parts, quotations, quotes
from agents.sound import Sound

__all__ = [
    "MAX_WORDS",
    "NO_SUBTITLES",
    "Asked",
    "Finding",
    "Rule",
    "check",
    "paragraphs",
    "quotes",
    "sentence",
    "words_in",
]

MAX_WORDS = 250
NO_SUBTITLES = "This video has no subtitles."
LONGEST_WHAT = 80  # characters of the offending text
NEARLY = 0.7  # how alike a text on screen is to one that was changed

_NO_SUBTITLES = re.compile(r"\s+".join(map(re.escape, NO_SUBTITLES.split())))
_AUDIO = re.compile(r"The audio (?:shows|includes)\b")
_NEW_PARAGRAPH = re.compile(rf"\n[^\S\n]*(?:\n\s*|(?={_AUDIO.pattern}))")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_FREEZING = re.compile(
    r"\b(?:static|still|frozen|motionless|fixed|stationary|steady)\b"
    r"|一动不动|纹丝不动|静止|静态|定格|固定|不动(?!产)|凝固|凝滞|冻结|停滞",
    re.IGNORECASE,
)
_ADDED = ",.，。"  # what a writer may put inside the closing mark: it isn't heard


class Rule(StrEnum):
    """What a prompt can break."""

    EMPTY = "empty"
    QUOTE_LOST = "quote_lost"
    QUOTE_INVENTED = "quote_invented"
    ON_SCREEN_CHANGED = "on_screen_changed"
    TOO_LONG = "too_long"
    NO_AUDIO = "no_audio"
    AUDIO_EARLY = "audio_early"
    SUBTITLES = "subtitles"
    FREEZING = "freezing"


class Asked(BaseModel, frozen=True, extra="forbid"):
    """What a prompt is held against: the creator's words, and the texts that are seen in the first frame."""

    idea: str
    sound: Sound = Sound()
    on_screen: tuple[str, ...] = ()


class Finding(BaseModel, frozen=True, extra="forbid"):
    """A rule that was broken. ``what``: the text that breaks it, shortened; for a number, the number."""

    rule: Rule
    what: str = ""


def check(prompt: str, asked: Asked) -> tuple[Finding, ...]:
    """Every rule that the prompt breaks, once for each text that breaks it; () if it keeps them all."""
    if not _without_subtitles(prompt).strip():
        return (Finding(rule=Rule.EMPTY),)
    broken = [*_quotations(prompt, asked), *_length(prompt), *_audio(prompt), *_subtitles(prompt), *_freezing(prompt)]
    return tuple(Finding(rule=rule, what=_shortened(what)) for rule, what in dict.fromkeys(broken))


def sentence(finding: Finding) -> str:
    """What a model is told that is asked again; creators read the catalogue's sentence instead."""
    return _SENTENCES[finding.rule].format(what=finding.what)


def paragraphs(prompt: str) -> list[str]:
    """The paragraphs of a prompt: after an empty line, and wherever a line begins with the audio phrase."""
    return [part.strip() for part in _NEW_PARAGRAPH.split(prompt) if part.strip()]


def words_in(prompt: str) -> float:
    """The words of a prompt as its limit counts them: two ideographs are one, which is about what they are in tokens.

    The sentence about subtitles, which no writer can leave out, doesn't count.
    """
    text = _without_subtitles(prompt)
    rest = _IDEOGRAPH.sub(" ", text)
    words = sum(any(character.isalnum() for character in piece) for piece in rest.split())
    return words + len(_IDEOGRAPH.findall(text)) / 2


Broken = tuple[Rule, str]

_SENTENCES = {
    Rule.EMPTY: "The answer held no prompt: write the whole prompt.",
    Rule.QUOTE_LOST: 'The creator\'s words "{what}" must stand in the prompt character for character, between double '
    "quotation marks, in their own language, in one piece.",
    Rule.QUOTE_INVENTED: '"{what}" was neither written by the creator nor seen on screen: leave it out, and quote '
    "nothing that wasn't given.",
    Rule.ON_SCREEN_CHANGED: '"{what}" is not quite what is seen on screen: copy that text character for character, or '
    "don't quote it.",
    Rule.TOO_LONG: "The prompt has {what} words; the limit is 250. Say the same in fewer words; keep every quotation.",
    Rule.NO_AUDIO: 'The last paragraph begins "{what}": it must be about the sound alone, and begin "The audio shows".',
    Rule.AUDIO_EARLY: 'A paragraph before the last begins "{what}": all the sound belongs into the last paragraph.',
    Rule.SUBTITLES: "The sentence about subtitles is put in front by the studio: don't write anything about subtitles.",
    Rule.FREEZING: 'The word "{what}" freezes the picture: say what moves, however little, without that word.',
}


def _quotations(prompt: str, asked: Asked) -> Iterator[Broken]:
    given = dict.fromkeys([*quotes(asked.idea), *(line.words for line in asked.sound.dialogue)])
    rest, found = _without_marked(prompt, given)
    found |= {_folded(quotation.words) for quotation in quotations(rest)}
    for words in given:
        if not _among(words, found):
            yield Rule.QUOTE_LOST, words
    for words in quotes(rest):
        if any(_same(words, known) for known in [*given, *asked.on_screen]) or _unquoted_in(words, asked):
            continue
        changed = any(_nearly(words, seen) for seen in asked.on_screen)
        yield (Rule.ON_SCREEN_CHANGED if changed else Rule.QUOTE_INVENTED), words


def _without_marked(prompt: str, given: Iterable[str]) -> tuple[str, set[str]]:
    """The prompt without the lines that hold double marks themselves, as in ``the 12" pipe``, and those lines, folded.

    Where such a line ends can't be told from its marks, so it is looked for as a whole.
    """
    found = set()
    for words in given:
        if any(mark in DOUBLES for mark in words):
            pattern = f"[{MARKS}]{_pattern(words)}[{_ADDED}]?[{MARKS}]"
            prompt, times = re.subn(pattern, " ", prompt)
            found |= {_folded(words)} if times else set()
    return prompt, found


def _pattern(words: str) -> str:
    """What matches the words with any marks in the place of theirs, and any space in the place of a space."""
    pieces = re.split(rf"(\s+|[{MARKS}])", words)
    return "".join(
        r"\s+" if piece.isspace() else f"[{MARKS}]" if piece and piece in MARKS else re.escape(piece)
        for piece in pieces
    )


def _among(words: str, found: set[str]) -> bool:
    """Whether the words are there; a comma at their end, as in `"Hello," she says`, belongs to the sentence around."""
    bare = words[:-1] if words.endswith((",", "，")) else words
    return any(_folded(each) in found for each in [words, bare, *(bare + added for added in _ADDED)])


def _same(words: str, known: str) -> bool:
    return _among(known, {_folded(words)})


def _folded(words: str) -> str:
    """The words with one kind of mark and one kind of space: all that may differ in a verbatim quotation.

    ``< /`` is how a closing tag reaches a model (see ``Ask.user``), so it may come back as that.
    """
    words = unicodedata.normalize("NFC", re.sub(f"[{MARKS}]", "'", words)).replace("< /", "</")
    return " ".join(words.split())


def _unquoted_in(words: str, asked: Asked) -> bool:
    """Whether the creator wrote the words without marks, as in `a sign that says OPEN`: those may be quoted."""
    sound = asked.sound
    own = "\n".join([_unquoted(asked.idea), sound.effects, sound.ambience, sound.music])
    return bool(re.search(rf"(?<![^\W\u3040-\u9fff]){re.escape(_folded(words))}(?![^\W\u3040-\u9fff])", _folded(own)))


def _nearly(words: str, seen: str) -> bool:
    letters, original = _letters(words), _letters(seen)
    if not letters or not original:
        return False
    part = len(words) > 1 and re.search(rf"\b{re.escape(words.casefold())}\b", seen.casefold())
    return bool(part) or SequenceMatcher(None, letters, original, autojunk=False).ratio() >= NEARLY


def _letters(words: str) -> str:
    return "".join(character for character in unicodedata.normalize("NFKD", words).casefold() if character.isalnum())


def _length(prompt: str) -> Iterator[Broken]:
    words = words_in(prompt)
    if words > MAX_WORDS:
        yield Rule.TOO_LONG, f"{math.ceil(words)}"


def _audio(prompt: str) -> Iterator[Broken]:
    *earlier, last = paragraphs(_without_subtitles(prompt))
    if not _AUDIO.match(last):
        yield Rule.NO_AUDIO, last
    for paragraph in earlier:
        if _AUDIO.match(paragraph):
            yield Rule.AUDIO_EARLY, paragraph


def _subtitles(prompt: str) -> Iterator[Broken]:
    times = len(_NO_SUBTITLES.findall(_unquoted(prompt)))
    if times != 1:
        yield Rule.SUBTITLES, str(times)


def _freezing(prompt: str) -> Iterator[Broken]:
    for paragraph in paragraphs(_without_subtitles(prompt)):
        if not _AUDIO.match(paragraph):
            yield from ((Rule.FREEZING, word.casefold()) for word in _FREEZING.findall(_unquoted(paragraph)))


def _without_subtitles(prompt: str) -> str:
    return outside(prompt, lambda part: _NO_SUBTITLES.sub("", part))


def _unquoted(text: str) -> str:
    return "\n".join(part for part, quoted in parts(text) if not quoted)


def _shortened(what: str) -> str:
    line = " ".join(what.split())
    return line if len(line) <= LONGEST_WHAT else line[: LONGEST_WHAT - 1].rstrip() + "…"
