"""What an idea names, in its own words: camera, style, light, quoted lines and sounds; English and Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agents.builtin.absent import without_absent
from agents.builtin.phrases import (
    AMBIENCE,
    ANGLE,
    EFFECT,
    LATER,
    LATER_CLAUSE,
    LEADING_SHOT,
    LIGHT,
    MUSIC,
    NO_MUSIC,
    ONLY_SOUND,
    SHOT,
    SOUND_BORDER,
    SOUND_TAIL,
    SOUNDING_VERB,
    STYLE,
)
from agents.builtin.sentences import clauses, mostly_ideographs, sentences
from agents.builtin.speech import Role, quoted, subject_before, without_speech
from agents.checker import words_in
from agents.quotation import Quotation, outside, quotations

LONGEST_SOUND = 14  # words of a clause that is repeated for its sound; of a longer one the sound alone is named

__all__ = ["Role", "Sounds", "first_moment", "looks", "quoted", "shot", "sounds"]

_ITS = re.compile(r"(?P<own>its|his|her|their)\b|(?:it|he|she|they)\b|[它他她](?:的(?=.))?", re.IGNORECASE)
_OWN = dict.fromkeys(("its", "his", "her", "their", "Its", "His", "Her", "Their"), "'s")
_ONLY_A_PLACE = re.compile(r"(?:in|on|at|by|near|under|behind|inside)\s+(?:[\w'’-]+\s*){1,6}[.!]?$", re.IGNORECASE)


@dataclass(frozen=True)
class Sounds:
    """The sounds that are named, in the idea's words; the music may be none."""

    effects: tuple[str, ...] = ()
    ambience: tuple[str, ...] = ()
    music: str = ""


def shot(idea: str) -> str:
    """The shot size and the camera angle that begin an image prompt: the idea's, or the plainest."""
    plain = _unquoted(idea)
    size, angle = SHOT.search(plain), ANGLE.search(plain)
    if mostly_ideographs(plain):
        return f"{size.group() if size else '中景'}，{angle.group() if angle else '平视'}"
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
    seen = without_speech(without_absent(idea))
    kept = [_first_part(sentence) for sentence in sentences(seen) if not LATER.match(sentence.lstrip())]
    silent = ["".join(part for part in clauses(sentence) if not _only_sound(part)) for sentence in kept]
    between = "" if mostly_ideographs(_unquoted(idea)) else " "
    text = between.join(_whole(sentence.strip()) for sentence in silent if sentence.strip(" .。")) or seen
    text = re.sub(r"\s*[,;:，；：、]+\s*(?=[.!?。！？]|$)", "", LEADING_SHOT.sub("", " ".join(text.split())))
    return text.strip(" ,;:，；：、")


def sounds(idea: str) -> Sounds:
    """The sounds that an idea names, each in the clause that names it, and by whom they are made if that is known."""
    effects: list[str] = []
    ambience: list[str] = []
    plain = _unquoted(idea)
    refused = NO_MUSIC.search(plain)
    music = refused.group() if refused else ""
    told = ""
    for clause in clauses(without_absent(NO_MUSIC.sub("", plain))):
        parts = SOUND_BORDER.split(clause)
        for part in parts:
            piece = part.strip(" .,;:!?，。；：、！？…\n\t")
            if found := MUSIC.search(piece):
                music = music or _short(piece, found.group())
            elif (found := AMBIENCE.search(piece)) and not (found.group().lower() == "waves" and _waving(parts, part)):
                ambience.append(_short(piece, found.group()))
            elif found := EFFECT.search(piece):
                effects.append(_by_whom(_short(piece, found.group()), told))
        told += clause
    return Sounds(tuple(dict.fromkeys(effects)), tuple(dict.fromkeys(ambience)), music)


def _waving(parts: list[str], part: str) -> bool:
    """Whether "waves" is what somebody does, as in "she smiles and waves", and not the sea."""
    before = parts[: parts.index(part)]
    return any(before) and not any(AMBIENCE.search(each) or EFFECT.search(each) for each in before)


def _by_whom(sound: str, told: str) -> str:
    """A sound with the name of what makes it in the place of a pronoun, or where the sound is but a verb."""
    pronoun = _ITS.match(sound)
    if not pronoun and not SOUNDING_VERB.match(sound):
        return sound
    who = subject_before(told, pronoun.group() if pronoun else "it")
    if not who:
        return sound
    rest = sound[pronoun.end() :] if pronoun else sound
    if not who.isascii():
        return f"{who}{rest}"
    return f"{who}{_OWN.get(pronoun.group('own') or '', '') if pronoun else ''} {rest.strip()}"


def _outer(text: str) -> list[Quotation]:
    return [found for found in quotations(text) if found.outermost]


def _unquoted(text: str) -> str:
    """The text with its quotes blanked, so that places stay as they are."""
    for quote in _outer(text):
        text = text[: quote.start] + " " * (quote.end - quote.start) + text[quote.end :]
    return text


def _with(ending: str, word: str) -> str:
    own = word.endswith(("light", "style", "lit", "painting", "render", "art", "illustration")) or not word.isascii()
    return word if own else word + ending


def _whole(sentence: str) -> str:
    """A sentence of which no more than a place was left, as after "no people", made whole again."""
    return f"The scene is {sentence[:1].lower()}{sentence[1:]}" if _ONLY_A_PLACE.match(sentence) else sentence


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
