"""Whether a video prompt keeps the rules that the model was trained by: pure code, no model."""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import accumulate, takewhile

from pydantic import BaseModel

from agents.quotation import DOUBLES, MARKS, Quotation, outside, parts, quotations, quotes
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
MOST_COMPARED = 1_000_000  # pairs of letters in one check; an honest prompt needs some thousands
LEAST_COMPARED = 100  # pairs of letters that a comparison counts for, however short the two texts

_NO_SUBTITLES = re.compile(r"\s+".join(map(re.escape, NO_SUBTITLES.split())))
_AUDIO = re.compile(r"The audio (?:shows|includes)\b")
_NEW_PARAGRAPH = re.compile(rf"\n[^\S\n]*(?:\n\s*|(?={_AUDIO.pattern}))")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_FREEZING = re.compile(
    r"\b(?:static|still|frozen|motionless|fixed|stationary|steady)\b"
    r"|一动不动|纹丝不动|静止|静态|定格|固定|不动(?!产)|凝固|凝滞|冻结|停滞",
    re.IGNORECASE,
)
_FOLDED_MARKS = str.maketrans(dict.fromkeys(MARKS, "'"))
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
    rest = _without_subtitles(prompt)
    if not rest.strip():
        return (Finding(rule=Rule.EMPTY),)
    broken = [*_quotations(prompt, asked), *_length(rest), *_audio(rest), *_subtitles(prompt), *_freezing(rest)]
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
    return _words_in(_without_subtitles(prompt))


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
    """Each text is folded or parsed once, not once for each quotation: a prompt may hold thousands of them."""
    idea = list(parts(asked.idea))
    quoted = [" ".join(part[1:-1].split()) for part, is_quoted in idea if is_quoted]
    given = dict.fromkeys([*quoted, *(line.words for line in asked.sound.dialogue)])
    ways = {words: _ways(words) for words in [*given, *asked.on_screen]}
    rest, found = _without_marked(prompt, given)
    marked = quotations(rest)
    found |= _found(rest, marked, {way for words in given for way in ways[words]})
    for words in given:
        if ways[words].isdisjoint(found):
            yield Rule.QUOTE_LOST, words
    known = {way for each in ways.values() for way in each}
    own = _own([part for part, is_quoted in idea if not is_quoted], asked.sound)
    seen = _Seen(asked.on_screen)
    for words in dict.fromkeys(quotation.words for quotation in marked if quotation.outermost):
        folded = _folded(words)
        if folded not in known and _bounded(folded) not in own:
            yield (Rule.ON_SCREEN_CHANGED if seen.nearly(words) else Rule.QUOTE_INVENTED), words


def _without_marked(prompt: str, given: Iterable[str]) -> tuple[str, set[str]]:
    """The prompt without the lines that hold double marks themselves, as in ``the 12" pipe``, and those lines, folded.

    Where such a line ends can't be told from its marks, so it is looked for as a whole, with any marks in the place
    of its own, and any space in the place of a space.
    """
    pieces = re.findall(r"\s+|\S", prompt)
    text = _evened(prompt)  # one character for each piece
    found = set()
    for words in given:
        if any(mark in DOUBLES for mark in words):
            places = list(_places(text, "'" + _evened(words)))
            for start, end in reversed(places):
                before, after = start - text[:start].endswith(" "), end + text.startswith(" ", end)
                pieces[before:after] = ["".join([*pieces[before:start], " ", *pieces[end:after]])]
                text = f"{text[:before]} {text[after:]}"
            found |= {_folded(words)} if places else set()
    return "".join(pieces), found


def _evened(text: str) -> str:
    return re.sub(r"\s+", " ", text.translate(_FOLDED_MARKS))


def _places(text: str, line: str) -> Iterator[tuple[int, int]]:
    """Where the line stands with a mark behind it, or with a comma or period and then a mark."""
    start = text.find(line)
    while start >= 0:
        end = start + len(line)
        end += text[end : end + 1] in tuple(_ADDED)
        if closed := text.startswith("'", end):
            yield start, end + 1
        start = text.find(line, end + 1 if closed else start + 1)


def _ways(words: str) -> set[str]:
    """How the words may be written, folded; a comma at their end, as in `"Hello," she says`, is the sentence's."""
    bare = words[:-1] if words.endswith((",", "，")) else words
    stem = _folded(bare + ",")[:-1]
    return {_folded(words), _folded(bare), *(stem + added for added in _ADDED)}


def _found(text: str, marked: Iterable[Quotation], wanted: set[str]) -> set[str]:
    """The quotations of the text, folded, of those sizes that are wanted: of the others none can be the same."""
    before = list(accumulate(map(_size, text), initial=0))
    sizes = {sum(map(_size, words)) for words in wanted}
    return {_folded(each.words) for each in marked if before[each.end - 1] - before[each.start + 1] in sizes}


def _size(character: str) -> int:
    """What a character counts for, so that folding a text doesn't change its size."""
    return 0 if character.isspace() else len(unicodedata.normalize("NFD", character))


def _folded(words: str) -> str:
    """The words with one kind of mark and one kind of space: all that may differ in a verbatim quotation.

    ``< /`` is how a closing tag reaches a model (see ``Ask.user``), so it may come back as that.
    """
    words = unicodedata.normalize("NFC", words.translate(_FOLDED_MARKS)).replace("< /", "</")
    return " ".join(words.split())


def _own(bare: Iterable[str], sound: Sound) -> str:
    """What the creator wrote without marks, as in `a sign that says OPEN`: that may be quoted."""
    return _bounded(_folded("\n".join([*bare, sound.effects, sound.ambience, sound.music])))


def _bounded(folded: str) -> str:
    """With a line break, which no folded text holds, wherever a word may begin or end.

    So `pen` is not in `open`, while of the scripts without spaces every character is a word.
    """
    return "\n" + re.sub(r"([\W\u3040-\u9fff])", "\n\\1\n", folded) + "\n"


class _Seen:
    """The texts on screen, made ready to be held against many quotations."""

    def __init__(self, texts: Iterable[str]) -> None:
        lettered = {text: letters for text in texts if (letters := _letters(text))}
        self.words = "\r".join(_with_edges(text.casefold()) for text in lettered)
        self.letters = sorted(set(lettered.values()), key=len)
        self.lengths = [len(letters) for letters in self.letters]
        self.matchers = [SequenceMatcher(None, "", letters, autojunk=False) for letters in self.letters]
        self.left = MOST_COMPARED

    def nearly(self, words: str) -> bool:
        """Whether the words are a part of a text, or much like one; beyond the most that is compared, they aren't."""
        letters = _letters(words)
        if not letters:
            return False
        part = len(words) > 1 and "\n" + _with_edges(words.casefold()).strip("\n") + "\n" in self.words
        if part:
            return True
        about = takewhile(lambda _: self.left > 0, self._of_about(len(letters)))
        return any(self._alike(letters, number) for number in about)

    def _of_about(self, length: int) -> Sequence[int]:
        """The texts that aren't too short or too long to be alike."""
        shortest, longest = length * NEARLY / (2 - NEARLY), length * (2 - NEARLY) / NEARLY
        return range(bisect_left(self.lengths, int(shortest)), bisect_right(self.lengths, int(longest) + 1))

    def _alike(self, letters: str, number: int) -> bool:
        work = max(len(letters) * self.lengths[number], LEAST_COMPARED)
        if work > MOST_COMPARED:
            return False
        self.left -= work
        matcher = self.matchers[number]
        matcher.set_seq1(letters)
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # each is an upper bound of the next
        return all(bound() >= NEARLY for bound in bounds)


def _with_edges(text: str) -> str:
    """With a line break at every edge of a word, and no other."""
    return re.sub(r"\b", "\n", text.replace("\n", "\r"))


def _letters(words: str) -> str:
    return "".join(character for character in unicodedata.normalize("NFKD", words).casefold() if character.isalnum())


def _words_in(rest: str) -> float:
    words = sum(any(character.isalnum() for character in piece) for piece in _IDEOGRAPH.sub(" ", rest).split())
    return words + len(_IDEOGRAPH.findall(rest)) / 2


def _length(rest: str) -> Iterator[Broken]:
    words = _words_in(rest)
    if words > MAX_WORDS:
        yield Rule.TOO_LONG, f"{math.ceil(words)}"


def _audio(rest: str) -> Iterator[Broken]:
    *earlier, last = paragraphs(rest)
    if not _AUDIO.match(last):
        yield Rule.NO_AUDIO, last
    for paragraph in earlier:
        if _AUDIO.match(paragraph):
            yield Rule.AUDIO_EARLY, paragraph


def _subtitles(prompt: str) -> Iterator[Broken]:
    times = len(_NO_SUBTITLES.findall(_unquoted(prompt)))
    if times != 1:
        yield Rule.SUBTITLES, str(times)


def _freezing(rest: str) -> Iterator[Broken]:
    for paragraph in paragraphs(rest):
        if not _AUDIO.match(paragraph):
            yield from ((Rule.FREEZING, word.casefold()) for word in _FREEZING.findall(_unquoted(paragraph)))


def _without_subtitles(prompt: str) -> str:
    return outside(prompt, lambda part: _NO_SUBTITLES.sub("", part))


def _unquoted(text: str) -> str:
    return "\n".join(part for part, quoted in parts(text) if not quoted)


def _shortened(what: str) -> str:
    line = " ".join(what.split())
    return line if len(line) <= LONGEST_WHAT else line[: LONGEST_WHAT - 1].rstrip() + "…"
