"""What an idea names, in its own words: camera, style, light, quoted lines and sounds; English and Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from agents.builtin.phrases import (
    AMBIENCE,
    ANGLE,
    COLON,
    EFFECT,
    LATER,
    LATER_CLAUSE,
    LEADING_SHOT,
    LIGHT,
    MUSIC,
    NO_MUSIC,
    ONLY_SOUND,
    READS,
    SAYS,
    SHOT,
    SOUND_BORDER,
    SOUND_TAIL,
    SPEAKER,
    SPEAKER_AFTER,
    SPEAKER_ZH,
    SPEECH_AFTER,
    SPEECH_BEFORE,
    STYLE,
)
from agents.builtin.sentences import clauses, ended, sentences
from agents.checker import words_in
from agents.quotation import Quotation, outside, quotations

LONGEST_SOUND = 14  # words of a clause that is repeated for its sound; of a longer one the sound alone is named


class Role(StrEnum):
    """What a quote in an idea is."""

    SPEECH = "speech"
    ON_SCREEN = "on_screen"
    OTHER = "other"


@dataclass(frozen=True)
class Quote:
    """A quote of the idea; ``start`` and ``end`` with its marks. The speaker is empty where none is named."""

    words: str
    role: Role
    speaker: str
    start: int
    end: int


@dataclass(frozen=True)
class Sounds:
    """The sounds that are named, in the idea's words; the music may be none."""

    effects: tuple[str, ...] = ()
    ambience: tuple[str, ...] = ()
    music: str = ""


def quoted(idea: str) -> list[Quote]:
    """The quotes of an idea, each with what it is for."""
    found = []
    for mark in _outer(idea):
        before, after = _sentence_before(idea, mark.start), idea[mark.end : mark.end + 60]
        role, speaker = _role(before, after)
        found.append(Quote(mark.words, role, speaker, mark.start, mark.end))
    return found


def shot(idea: str) -> str:
    """The shot size and the camera angle that begin an image prompt: the idea's, or the plainest."""
    plain = _unquoted(idea)
    size, angle = SHOT.search(plain), ANGLE.search(plain)
    words = f"{size.group() if size else 'medium shot'}, {angle.group() if angle else 'eye level'}".lower()
    return words[:1].upper() + words[1:]


def looks(idea: str) -> list[str]:
    """The style and the light that the idea names."""
    plain = _unquoted(idea)
    styles = [found.lower() for found in STYLE.findall(plain)]
    lights = [found.lower() for found in LIGHT.findall(plain)]
    return list(dict.fromkeys([_with(" style", word) for word in styles] + [_with(" light", word) for word in lights]))


def first_moment(idea: str) -> str:
    """What of an idea can be seen in its first frame: no speech, no sound, nothing that comes later."""
    seen = _without_speech(idea)
    kept = [_first_part(sentence) for sentence in sentences(seen) if not LATER.match(sentence.lstrip())]
    silent = ["".join(part for part in clauses(sentence) if not _only_sound(part)) for sentence in kept]
    text = " ".join(sentence.strip() for sentence in silent if sentence.strip(" .。")) or seen
    text = re.sub(r"\s*[,;:，；：、]+\s*(?=[.!?。！？]|$)", "", LEADING_SHOT.sub("", " ".join(text.split())))
    return text.strip(" ,;:，；：、")


def sounds(idea: str) -> Sounds:
    """The sounds that an idea names, each in the clause that names it."""
    effects: list[str] = []
    ambience: list[str] = []
    refused = NO_MUSIC.search(_unquoted(idea))
    music = refused.group() if refused else ""
    for clause in clauses(NO_MUSIC.sub("", _unquoted(idea))):
        for part in SOUND_BORDER.split(clause):
            piece = part.strip(" .,;:!?，。；：、！？…\n\t")
            if found := MUSIC.search(piece):
                music = music or _short(piece, found.group())
            elif found := AMBIENCE.search(piece):
                ambience.append(_short(piece, found.group()))
            elif found := EFFECT.search(piece):
                effects.append(_short(piece, found.group()))
    return Sounds(tuple(dict.fromkeys(effects)), tuple(dict.fromkeys(ambience)), music)


def _outer(text: str) -> list[Quotation]:
    return [found for found in quotations(text) if found.outermost]


def _sentence_before(idea: str, end: int) -> str:
    parts = sentences(idea[max(0, end - 200) : end])
    return parts[-1] if parts else ""


def _role(before: str, after: str) -> tuple[Role, str]:
    """What a quote is, by the words nearest to it, and who says it."""
    reads, says = _last(READS, before), _last(SAYS, before)
    following = SPEAKER_AFTER.match(after)
    if reads > says or (says >= 0 and READS.search(before[:says][-12:])):
        return Role.ON_SCREEN, ""
    if says >= 0:
        named = SPEAKER.search(before) or SPEAKER_ZH.search(before)
        return Role.SPEECH, _speaker(named.group("who")) if named else ""
    if following:
        return Role.SPEECH, _speaker(following.group("who") or following.group("zh"))
    if colon := COLON.search(before):
        return Role.SPEECH, _speaker(colon.group("who"))
    return Role.OTHER, ""


def _last(pattern: re.Pattern[str], text: str) -> int:
    return max((found.start() for found in pattern.finditer(text)), default=-1)


def _speaker(who: str) -> str:
    return re.sub(r"^(?:(?:and|then|while|as|when)\s+)+|^(?:一个|一位|一名)", "", who.strip(), flags=re.IGNORECASE)


def _unquoted(text: str) -> str:
    """The text with its quotes blanked, so that places stay as they are."""
    for quote in _outer(text):
        text = text[: quote.start] + " " * (quote.end - quote.start) + text[quote.end :]
    return text


def _with(ending: str, word: str) -> str:
    own = word.endswith(("light", "style", "lit", "painting", "render", "art", "illustration")) or not word.isascii()
    return word if own else word + ending


def _without_speech(idea: str) -> str:
    """The idea without its spoken lines and the words that introduce them; the speaker stays in the picture."""
    kept, end = "", 0
    for quote in quoted(idea):
        if quote.role is not Role.SPEECH:
            continue
        kept += idea[end : quote.start]
        bare = SPEECH_BEFORE.sub("", kept)
        tail = idea[quote.end :]
        lead = SPEECH_AFTER.match(tail) if bare == kept else None
        closes = idea[quote.start + 1 : quote.end - 1].rstrip().endswith(tuple(".!?。！？"))
        kept = ended(bare.rstrip()) + " " if closes and bare.strip() else bare
        end = quote.end + (lead.end() if lead else 0)
    return kept + idea[end:]


def _first_part(sentence: str) -> str:
    """A sentence as far as its first moment goes; all of it where the rest would be nothing."""
    stop = re.search(r"[.!?。！？]+\s*$", sentence)
    first = outside(sentence, lambda part: SOUND_TAIL.sub("", LATER_CLAUSE.sub("", part)))
    if not first.strip(" ,.;，。；"):
        return sentence
    return first if not stop or first.endswith(stop.group()) else first.rstrip() + stop.group()


def _only_sound(part: str) -> bool:
    """Whether a clause is about what is heard, or only repeats the camera, the style or the light."""
    if quotations(part):
        return False
    bare = part.strip(" .,;:!?，。；：、！？…")
    named = re.sub(rf"{SHOT.pattern}|{ANGLE.pattern}|{STYLE.pattern}|{LIGHT.pattern}", "", bare, flags=re.IGNORECASE)
    return not named.strip(" ,，、和") or bool(ONLY_SOUND.search(part))


def _short(piece: str, sound: str) -> str:
    return piece if words_in(piece) <= LONGEST_SOUND and len(piece) <= 8 * LONGEST_SOUND else sound
