"""Text taken apart and shortened without ever touching what stands in quotes."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from agents.checker import words_in
from agents.quotation import outside, quotations

_IDEOGRAPH = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_IDEOGRAPHIC = re.compile(f"[{_IDEOGRAPH}]")
_IDEOGRAPHS, _LATIN = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[A-Za-z]")
_SENTENCE_END = re.compile(r"(?:[.!?…]+[)\]]*(?=\s|$)|[。！？]+|\n)\s*")
_CLAUSE_END = re.compile(r"(?:[,;:](?=\s|$)|[，；：、]|—|[.!?…]+(?=\s|$)|[。！？]+|\n)\s*")
_WORD_END = re.compile(rf"\s+|(?<=[{_IDEOGRAPH}])")
_AFTER_QUOTE = re.compile(r"\s+(?=[A-Z])|\s*\Z")

# Words that freeze the picture, and what is said instead; the first that fits a place is taken.
_FREEZING = (
    (r"\bstill li(?:fe|ves)\b", "tabletop arrangement"),
    (r"\b(?:static|fixed|still|steady|stationary|motionless|locked-off) (?=(?:camera|shot|frame|image|picture)\b)", ""),
    (r"\bcamera (?:is|stays|remains|keeps|holds) (?:completely |perfectly )?"
     r"(?:static|still|stationary|motionless|fixed|steady)\b", "camera keeps its place"),
    (r"\b(is|are|stays?|remains?|stands?|sits?|lies|lie|holds?|keeps?) (?:completely |perfectly |very )?"
     r"(?:static|still|stationary|motionless|fixed|steady|frozen in place)(?=[,.;:!?]|$)", r"\1 calm"),
    (r"\bstill (?=(?:air|lake|night|pond|sea|water|waters)\b)", "calm "),
    (r"\b(?:holds|stands|sits|lies|stays|keeps) still\b", "stays in place"),
    (r"\bstill\b[ ]?", ""),
    (r"\bfrozen\b", "icy"),
    (r"\b(?:radio |tv )static\b", "radio hiss"),
    (r"\bstatic\b|\bstationary\b|\bmotionless\b", "calm"),
    (r"\bmotionlessly\b|\bsteadily\b", "calmly"),
    (r"\bsteady\b", "even"),
    (r"\bfixed\b", "set"),
    ("固定(?:的)?(?:镜头|机位)|静止(?:的)?镜头|静态(?:的)?镜头|镜头(?:保持)?(?:静止|固定)(?:不动)?", "镜头"),
    ("静止不动|一动不动|纹丝不动|静止|静态|不动(?!产)", "安静"),
    ("定格|凝固|凝滞|冻结|停滞", "停留"),
    ("固定", "安放"),
)  # fmt: skip
_SOFTENED = tuple((re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in _FREEZING)


def one_line(text: str) -> str:
    """The text as one paragraph; quotes keep their lines."""
    return outside(text, lambda part: re.sub(r"\s+", " ", part)).strip()


def softened(text: str) -> str:
    """The text without words that freeze the picture, other than in quotes."""
    return outside(text, _soften)


def sentences(text: str) -> list[str]:
    """The text's sentences; joined again they are the text."""
    return _pieces(text, _SENTENCE_END)


def clauses(text: str) -> list[str]:
    """The text's parts between commas and the like; joined again they are the text."""
    return _pieces(text, _CLAUSE_END)


def shortened(text: str, longest: float, size: Callable[[str], float] = words_in) -> str:
    """The text, with as much left out of its end as makes it at most ``longest``; what is quoted stays.

    Whole sentences are left out; clauses, words or characters only where the first sentence alone is too long. Where
    the quotes alone are too long, they are what is left.
    """
    if size(text) <= longest:
        return text
    kept: list[str] = []
    for split in (sentences, clauses, _words, list):
        pieces = split(text)
        kept, fits = _kept(pieces, longest, size)
        if fits and sum(map(size, kept)) > longest / 2:
            break
        if split is _words and any(map(_has_quote, pieces)):
            break  # single characters would cut the quotes
    return "".join(kept).rstrip(" ,;:，；：、")


def ended(text: str) -> str:
    """The text with a full stop of its script, unless it has one or ends with a quote that has one."""
    bare = text.rstrip("\"”」』’'")
    if not text or bare[-1:] in tuple(".!?。！？…"):
        return text
    return text + ("。" if _IDEOGRAPHIC.match(bare[-1:]) else ".")


def lower_first(text: str) -> str:
    """A sentence's beginning for the middle of one: lower case, unless it seems to be a name or an acronym."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first.lower() in _ORDINARY else text


def mostly_ideographs(text: str) -> bool:
    """Whether a text is Chinese, a word in Latin letters now and then notwithstanding."""
    return 2 * len(_IDEOGRAPHS.findall(text)) > len(_LATIN.findall(text))


def upper_first(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


_ORDINARY = frozenset(
    (
        "a",
        "an",
        "the",
        "in",
        "on",
        "at",
        "two",
        "three",
        "some",
        "his",
        "her",
        "its",
        "my",
        "our",
        "their",
        "one",
        "he",
        "she",
        "they",
        "it",
    )
)


def _soften(text: str) -> str:
    for pattern, instead in _SOFTENED:
        text = pattern.sub(instead, text)
    return text


def _pieces(text: str, end: re.Pattern[str]) -> list[str]:
    """Cut after each end that isn't quoted, and after a quote that ends a sentence within its marks."""
    cuts = {0, len(text)}
    position = 0
    for quote in [*((found.start, found.end) for found in quotations(text) if found.outermost), (len(text), len(text))]:
        cuts |= {found.end() for found in end.finditer(text, position, quote[0])}
        position = quote[1]
        if text[position - 2 : position - 1] in tuple(".!?。！？…") and (space := _AFTER_QUOTE.match(text, position)):
            cuts.add(space.end())
    places = sorted(cuts)
    return [text[start:stop] for start, stop in pairwise(places)]


def _words(text: str) -> list[str]:
    return _pieces(text, _WORD_END)


def _kept(pieces: list[str], longest: float, size: Callable[[str], float]) -> tuple[list[str], bool]:
    """The pieces with a quote, and of the others as many of the first as there is room for; whether it all fits."""
    sizes = [size(piece) for piece in pieces]
    quoted = [_has_quote(piece) for piece in pieces]
    room = longest - sum(number for number, has in zip(sizes, quoted, strict=True) if has)
    fits = room >= 0
    kept = []
    for piece, number, has in zip(pieces, sizes, quoted, strict=True):
        if not has:
            room = room - number if room >= number else -1
        if has or room >= 0:
            kept.append(piece)
    return kept, fits


def _has_quote(piece: str) -> bool:
    return bool(quotations(piece))
