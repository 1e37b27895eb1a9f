"""The quotations of a text, whichever marks they stand in."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

STRAIGHT = '"'
PAIRS = {"“": "”", "„": "“”", "«": "»", "「": "」", "『": "』", STRAIGHT: STRAIGHT, "‘": "’'", "'": "'’"}
DOUBLES, SINGLES = "“”„" + STRAIGHT, "‘'"
MARKS = "".join(dict.fromkeys("".join(PAIRS) + "".join(PAIRS.values())))
DEEPEST = 8  # quotations in quotations; keeps a text of nothing but marks cheap

MOST_LAYERS = 8  # of marks around the whole of a text that are taken off
_MARK = re.compile(f"[{MARKS}]|\n[^\\S\n]*\n")
_BEFORE_OPENING = "([{<（【：:" + "".join(PAIRS)
_SPACE = re.compile(r"\s*")
_ELISION = re.compile(r"(?:n|em|til|till|tis|twas|cause|cos|bout|round|neath|cross|gainst|\d0s)\b", re.IGNORECASE)
_LATER_CLOSING = re.compile(r"(?:[^'‘’\n]|(?<=\w)['’](?=\w))*(?<=\S)['’](?!\w)")


@dataclass(frozen=True)
class Quotation:
    """Words between marks; ``start`` and ``end`` include the marks."""

    start: int
    end: int
    outermost: bool
    text: str = field(repr=False)

    @property
    def words(self) -> str:
        """Read only when asked for: of thousands of quotations in each other, every one holds all the inner ones."""
        return " ".join(self.text[self.start + 1 : self.end - 1].split())


def quotes(text: str) -> tuple[str, ...]:
    """What stands in quotation marks, in order; of quotations in quotations the outer ones."""
    return tuple(found.words for found in quotations(text) if found.outermost)


def quotations(text: str) -> tuple[Quotation, ...]:
    """Every quotation that isn't empty, inner ones too. None goes over an empty line; a mark without its pair is none.

    Straight marks are told apart by the spaces around them, an apostrophe from a single mark by the letters.
    """
    found = sorted(_Scan(text).spans())
    outer_end = -1
    result = []
    for start, minus_end in found:
        end = -minus_end
        if _after_space(text, start + 1) < end - 1:
            result.append(Quotation(start, end, end > outer_end, text))
            outer_end = max(outer_end, end)
    return tuple(result)


def parts(text: str) -> Iterator[tuple[str, bool]]:
    """The whole text in pieces, each with whether it is a quotation (its marks included)."""
    position = 0
    for found in quotations(text):
        if found.outermost:
            yield text[position : found.start], False
            yield text[found.start : found.end], True
            position = found.end
    yield text[position:], False


def outside(text: str, change: Callable[[str], str]) -> str:
    """The text with everything changed that isn't quoted."""
    return "".join(part if quoted else change(part) for part, quoted in parts(text))


def unquoted(text: str) -> str:
    """The text without the marks around the whole of it, if they are a pair; marks within it stay."""
    text = text.strip()
    for _ in range(MOST_LAYERS):
        if not any(found.start == 0 and found.end == len(text) for found in quotations(text)):
            break
        text = text[1:-1].strip()
    return text if text.strip(MARKS + " ") else ""


class _Scan:
    """One pass over the marks of a text with the quotations that are open at each."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.open: list[int] = []  # where the marks are that are open
        self.closed: list[tuple[int, int]] = []  # start, minus end: sorted, an outer one comes before its inner ones
        self.settled = 0  # how many of those stand in earlier paragraphs

    def spans(self) -> list[tuple[int, int]]:
        for mark in _MARK.finditer(self.text):
            if len(mark.group()) > 1:
                self._end_paragraph()
            else:
                self._read(mark.start())
        self._end_paragraph()
        return self.closed

    def _read(self, at: int) -> None:
        mark = self.text[at]
        before, after = self.text[at - 1 : at], self.text[at + 1 : at + 2]
        if mark == STRAIGHT:
            self._read_straight(at, before, after)
        elif mark in "'‘’":
            self._read_single(at, before, after)
        elif not self._close(at, lambda opening: mark in PAIRS[opening]):
            closes_straight = mark == "”" and self._close(at, lambda opening: opening == STRAIGHT)
            if mark in PAIRS and not closes_straight:
                self._push(at)

    def _read_straight(self, at: int, before: str, after: str) -> None:
        inside = any(self.text[start] == STRAIGHT for start in self.open[-DEEPEST:])
        if (before.isdigit() and not inside) or (_is_hebrew(before) and _is_hebrew(after)):
            return  # 12" is a size, and in a Hebrew abbreviation the mark stands between letters
        if _opens(before, after) or not (
            self._close(at, lambda opening: opening == STRAIGHT)
            or ((not after or not after.isalnum()) and self._close(at, lambda opening: opening in DOUBLES))
        ):
            self._push(at)

    def _read_single(self, at: int, before: str, after: str) -> None:
        mark = self.text[at]
        starts = not _is_letter(before) and after and not after.isspace() and not _ELISION.match(self.text, at + 1)
        if mark in SINGLES and starts and (mark == "‘" or _opens(before, after) or not before.isascii()):
            inside = any(self.text[start] in SINGLES for start in self.open[-DEEPEST:])
            if not (inside and mark == "'" and not _opens(before, after)):
                self._push(at)
                return
        ends = before and not before.isspace() and not (_is_letter(before) and _is_letter(after))
        possessive = before in "sS" and after.isspace() and _LATER_CLOSING.match(self.text, at + 1)
        if mark != "‘" and ends and not possessive:
            self._close(at, lambda opening: mark in PAIRS[opening])

    def _push(self, at: int) -> None:
        self.open.append(at)

    def _close(self, at: int, fits: Callable[[str], bool]) -> bool:
        for depth in self._depths():
            start = self.open[depth]
            if fits(self.text[start]):
                del self.open[depth:]
                self.closed.append((start, -(at + 1)))
                return True
        return False

    def _depths(self) -> Iterator[int]:
        return reversed(range(max(0, len(self.open) - DEEPEST), len(self.open)))

    def _end_paragraph(self) -> None:
        """Straight marks that were left open, as in ``"Hello "she says``, are pairs if nothing quoted lies between."""
        left = [start for start in reversed(self.open) if self.text[start] == STRAIGHT]
        starts = sorted(start for start, _ in self.closed[self.settled :])
        while len(left) > 1:
            start = left.pop()
            if bisect(starts, start) == bisect(starts, left[-1]):
                self.closed.append((start, -(left.pop() + 1)))
        self.open.clear()
        self.settled = len(self.closed)


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _opens(before: str, after: str) -> bool:
    return (not before or before.isspace() or before in _BEFORE_OPENING) and bool(after) and not after.isspace()


def _is_letter(character: str) -> bool:
    """Whether it belongs to a word of a script with spaces: only there a single mark can be an apostrophe."""
    return character.isalnum() and not "\u3040" <= character <= "\u9fff"


def _is_hebrew(character: str) -> bool:
    return "\u05d0" <= character <= "\u05ea"
