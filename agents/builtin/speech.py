"""Who says what in an idea, and what is left of it to be seen once the spoken lines are cut out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from agents.builtin.phrases import (
    ASIDE,
    COLON,
    FEMALE,
    MALE,
    NO_SUBJECT,
    PRONOUN,
    READS,
    SAYS,
    SPEAKER,
    SPEAKER_AFTER,
    SPEAKER_THEN_VERB,
    SPEAKER_ZH,
    SPEAKER_ZH_AFTER,
    SPEECH_BEFORE,
    SUBJECT,
    SUBJECT_ZH,
)
from agents.builtin.sentences import ended, mostly_ideographs, sentences, upper_first
from agents.quotation import quotations

LONGEST_BEFORE, LONGEST_AFTER = 200, 100  # characters around a quote in which its speaker is looked for
LONGEST_TOLD = 600  # characters before a pronoun in which its subject is looked for
_CUT = "\ue000"  # where a spoken line was cut out; of the private use area
_PLURAL = re.compile(r"(?:two|three|four|five|some|many|several|both|they|the\s+\w+s)\b", re.IGNORECASE)
_CONJUNCTION = re.compile(r"^(?:(?:and|then|while|as|when|but|who)\s+)+|^(?:[一那这][个位名只]|而)", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the|one)\s+", re.IGNORECASE)
_DOING = re.compile(r"(?P<who>[^,，]+?)\s*[,，]\s*(?P<doing>(?:\w+ly\s+)?\w{2,}ing\b.*)", re.DOTALL)
_DOING_ZH = re.compile(r"(?P<who>[一-鿿]{1,6})[，,]?(?P<doing>[一-鿿]{1,3}着)")
_AND = re.compile(r"^(?:(?:and|then|but|who)\s+)+", re.IGNORECASE)
_AND_DOES = re.compile(rf"{_CUT}[\s,]*and\s+(?!(?:an?|the|his|her|my|then|he|she|they)\b|[A-Z])")  # and leaves
_MANNER = re.compile(r"[轻大低小笑高]声?(?:地|着)?|[一-鿿]{2}地|然后|接着")
_FIRST_PRONOUN = re.compile(r"\W*([他她它])")
_DOES = re.compile(r"\s+\w+(?<![su])s\s")
_NEXT_QUOTE = re.compile(r"\s*[,，:：]\s*[\"“„「『«‘']")


class Role(StrEnum):
    """What a quote in an idea is."""

    SPEECH = "speech"
    ON_SCREEN = "on_screen"
    OTHER = "other"


@dataclass(frozen=True)
class Quote:
    """A quote of the idea; ``start`` and ``end`` with its marks. The speaker is empty where none is named.

    ``named``: the speaker as named at the quote, where ``speaker`` is whom a pronoun stands for. ``verb``: from where
    to where the verb stands that comes after the quote.
    """

    words: str
    role: Role
    speaker: str
    start: int
    end: int
    named: str = ""
    verb: tuple[int, int] = (0, 0)


def quoted(idea: str) -> list[Quote]:
    """The quotes of an idea, each with what it is for."""
    found = []
    for mark in (each for each in quotations(idea) if each.outermost):
        before, after = _sentence_before(idea, mark.start), idea[mark.end : mark.end + LONGEST_AFTER]
        closed = idea[mark.start + 1 : mark.end - 1].rstrip().endswith(tuple(".!?。！？…"))
        role, named, verb = _role(before, after, closed=closed)
        place = (mark.end + verb[0], mark.end + verb[1]) if verb[1] else (0, 0)
        speaker = (
            PRONOUN.fullmatch(named)
            and subject_before(_plain(idea[max(0, mark.start - LONGEST_TOLD) : mark.start]), named)
        ) or named
        found.append(Quote(mark.words, role, speaker, mark.start, mark.end, named, place))
    return found


def subject_before(text: str, pronoun: str) -> str:
    """Whom a pronoun at the end of a text stands for: the last subject that it fits, empty if there is none."""
    unfit = {"he": FEMALE, "his": FEMALE, "他": FEMALE, "she": MALE, "her": MALE, "她": MALE}.get(pronoun.lower()[:3])
    for sentence in reversed(sentences(text[-LONGEST_TOLD:])):
        for who in _subjects(sentence):
            if not (unfit and unfit.search(who)):
                return who
    return ""


def without_speech(idea: str) -> str:
    """The idea without its spoken lines and the words that introduce them; the speaker stays in the picture."""
    kept, end, speakers = "", 0, []
    for quote in quoted(idea):
        if quote.role is not Role.SPEECH:
            continue
        piece = idea[end : quote.start]
        end = quote.end
        if not quote.verb[1]:
            piece = SPEECH_BEFORE.sub("", ASIDE.sub(_comma_for_bracket, piece))
        closes = idea[quote.start + 1 : quote.end - 1].rstrip().endswith(tuple(".!?。！？"))
        kept += piece + _CUT
        if quote.verb[1]:
            kept += " " + quote.named
            end = max(quote.verb[1], _end_of_name(idea, quote))
        elif closes:
            kept = kept.rstrip() + ". "
        speakers.append(quote.named)
    kept += idea[end:]
    return (_made_whole(kept, speakers) or _anybody(speakers[0])) if speakers else kept


def _end_of_name(idea: str, quote: Quote) -> int:
    found = re.compile(re.escape(quote.named)).search(idea, quote.end)
    return found.end() if found else quote.verb[1]


def _comma_for_bracket(aside: re.Match[str]) -> str:
    inner = aside.group().strip(" ,，()（）")
    return f", {inner}" if inner.isascii() else inner


def _made_whole(text: str, speakers: list[str]) -> str:
    """What the cuts have left of sentences made into sentences: of a speaker alone, that they are in the picture."""
    waiting = list(speakers)
    result, shown = "", set()
    for sentence in sentences(text):
        cuts = sentence.count(_CUT)
        names, waiting = waiting[:cuts], waiting[cuts:]
        whole = _sentence_of(sentence, names) if cuts else sentence
        mention = _head(whole)
        if cuts and mention and mention in shown:
            continue
        shown.add(mention)
        result = f"{result.rstrip()} {whole} " if cuts and whole else result + whole
    return result.strip()


def _anybody(pronoun: str) -> str:
    """All that is known of a first frame where only a pronoun speaks; nothing if it tells nothing."""
    return {
        "she": "A woman is in the picture.",
        "he": "A man is in the picture.",
        "她": "画面中有一个女人。",
        "他": "画面中有一个男人。",
    }.get(pronoun.casefold(), "")


def _head(sentence: str) -> str:
    """By what two short sentences about the same speaker are known to be the same."""
    found = re.match(r"(.{1,60}?) (?:is|are) in the picture\.$|画面中有(.{1,20})。$", sentence.strip())
    return _ARTICLE.sub("", re.sub("^[一那这][个位名只]", "", (found[1] or found[2]).casefold())) if found else ""


def _sentence_of(sentence: str, names: list[str]) -> str:
    bare = _AND_DOES.sub(" ", sentence)
    bare = re.sub(rf"\s*{_CUT}[\s.。，,]*", " ", bare).strip(" ,;:，；：.。\n")
    bare = _AND.sub("", bare).strip()
    name = next((each for each in names if each and each in bare), "")
    if not bare or PRONOUN.fullmatch(bare):
        return ""
    pronoun = re.search(rf"(?:^|[\s,，]+)(?:and\s+)?{PRONOUN.pattern}$", bare, re.IGNORECASE)
    if pronoun and PRONOUN.fullmatch(name):
        bare, name = bare[: pronoun.start()].rstrip(" ,，"), ""
    doing = _DOING.fullmatch(bare) or _DOING_ZH.fullmatch(bare)
    if doing and doing["who"] == name:
        who, what = doing["who"], doing["doing"]
        bare = f"{who}{what}" if not who.isascii() else f"{who} {_be(who)} {what}"
    elif name and (bare.endswith(name) or _only_names(bare, names)):
        bare = _in_the_picture(bare, name)
    return ended(upper_first(bare)) if bare else ""


def _only_names(bare: str, names: list[str]) -> bool:
    for name in names:
        bare = bare.replace(name, "", 1)
    return not re.sub(r"\band\b|[\s,，、和]", "", bare)


def _in_the_picture(bare: str, name: str) -> str:
    """The words up to a speaker, and the speaker, as a sentence."""
    at = bare.index(name)
    if mostly_ideographs(name):
        place = re.sub(r"(?:[一二两三那这][个位名只])$", "", bare[:at])
        return f"{place}画面中有{bare[len(place) :]}"
    several = re.search(rf"{re.escape(name)}.*\sand\s|\sand\s.*{re.escape(name)}$", bare, re.DOTALL)
    return f"{bare} {'are' if several else _be(name)} in the picture"


def _be(who: str) -> str:
    return "are" if _PLURAL.match(who) else "is"


def _subjects(sentence: str) -> list[str]:
    found = [each["who"] or each["bare"] for each in SUBJECT_ZH.finditer(sentence)]
    if (subject := SUBJECT.match(sentence)) and subject["who"].casefold() not in NO_SUBJECT:
        found.append(_ARTICLE.sub("the ", subject["who"]))
    return found


def _plain(text: str) -> str:
    """The text with its quotes blanked."""
    for quote in quotations(text):
        text = text[: quote.start] + " " * (quote.end - quote.start) + text[quote.end :]
    return text


def _sentence_before(idea: str, end: int) -> str:
    parts = sentences(idea[max(0, end - LONGEST_BEFORE) : end])
    return parts[-1] if parts else ""


def _role(before: str, after: str, *, closed: bool) -> tuple[Role, str, tuple[int, int]]:
    """What a quote is, by the words nearest to it, who says it, and where a verb stands that comes after it."""
    before = ASIDE.sub("", before) or before
    reads, says = _last(READS, before), _last(SAYS, before)
    if reads > says or (says >= 0 and READS.search(before[:says][-12:])):
        return Role.ON_SCREEN, "", (0, 0)
    if says >= 0:
        named = SPEAKER.search(before) or SPEAKER_ZH.search(before)
        return Role.SPEECH, _subject_of(_speaker(named.group("who")), before) if named else "", (0, 0)
    if colon := COLON.search(before):
        return Role.SPEECH, _subject_of(_speaker(colon.group("who")), before), (0, 0)
    for pattern in (SPEAKER_AFTER, SPEAKER_THEN_VERB, SPEAKER_ZH_AFTER):
        found = pattern.match(after)
        if found and not (closed and pattern is not SPEAKER_AFTER and _NEXT_QUOTE.match(after, found.end())):
            return Role.SPEECH, _speaker(found.group("who")), found.span("says")
    return Role.OTHER, "", (0, 0)


def _subject_of(who: str, before: str) -> str:
    """The speaker alone, where a speaker does something else as well: "a baker opens her shop and says"."""
    if _MANNER.fullmatch(who):
        pronoun = _FIRST_PRONOUN.match(before)
        return pronoun[1] if pronoun else next(iter(_subjects(before)), "")
    if (subject := SUBJECT.match(who)) and _DOES.match(who, subject.end("who")):
        return subject["who"]
    first = SUBJECT_ZH.match(who)
    bare = first["bare"] if first else None
    return bare if bare and who[len(bare) : len(bare) + 1] not in tuple("的子们") else who


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((found.start() for found in pattern.finditer(text)), default=-1)


def _speaker(who: str) -> str:
    return _CONJUNCTION.sub("", who.strip())
