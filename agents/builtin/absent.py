"""What a text says is not there: it is neither painted nor heard, for painters take any noun for a wish."""

from __future__ import annotations

import re

from agents.quotation import outside

# What is said not to be there: "no people, text, not a single car", "a street without people", 没有人
_ITEM = r"(?:[\w'’-]+\s+){0,3}?[\w'’-]+?"
_NOUN_ENDS = (
    r"(?=\s*(?:[,.;:!?()\"“”]|$)|\s+(?:in|on|at|by|near|with|from|to|over|under|through|along|across|around|into|"
    r"behind|is|are|was|were|can|anywhere|visible|while|as|and|or|nor|but|who|that|just|only|of)\b)"
)
_ARTICLE = (
    r"(?!(?:an?|the|one|two|three|some|his|her|its|their|only|just|but|with|in|on|at|soft|warm|then|neon)\b|"
    r"(?:[\w-]+\s+)?(?:light|lit|sky|shot|style|rain|fog|mist|snow|wind|night|dusk|dawn|day|sunset|sunrise|close-?up)\b)"
)
NEGATED = re.compile(
    r"\bwithout\s+(?:an?|any|the)\s+(?:[\w-]+\s+){0,2}?[\w-]+(?=\s+(?!as\b|is\b)\w+(?<![su])s\s)|"
    r"\b(?:(?:there\s+)?(?:is|are|was|were)\s+|with\s+)?(?:"
    r"(?:no(?:t)?\s+(?:a\s+single|one|any|even\s+an?|an?)\s+|no\s+(?!longer\b|sooner\b|matter\b|doubt\b)|"
    r"without(?:\s+(?:any|an?|the|a\s+single))?\s+(?!\w+ing\b)|free\s+of\s+(?:any\s+)?|"
    r"(?:there\s+)?(?:isn|aren|wasn|weren)['’]t\s+(?:any|an?)\s+|"
    r"(?:do\s+not|don['’]t|never)\s+(?:show|paint|draw|include|add)\s+(?:any\s+|an?\s+)?|avoid\s+(?:any\s+)?)"
    rf"{_ITEM}{_NOUN_ENDS}"
    rf"(?:\s*(?:,\s*(?:or|nor|and)?|\b(?:or|nor)|\band(?=\s+(?:no\b|[\w-]+\s*(?:[.,;!?]|$))))\s*(?:no\s+|any\s+)?{_ARTICLE}"
    r"[\w'’-]+(?:\s+[\w'’-]+)?(?=\s*(?:[,.;!?]|$|\b(?:or|nor)\b)))*(?:\s+(?:around|anywhere|in\s+sight|to\s+be\s+seen|there)\b)?|"
    r"(?:nobody|no[\s-]one)\b(?:\s+(?:is|was)\b)?(?:\s+(?:there|here|around|in\s+sight|to\s+be\s+seen)\b)?)|"
    r"空无一人的?|(?:没有|沒有|没|不要(?:有|出现|画)?|不含|不带|不出现|避免(?:出现)?|看不[见到])"
    r"(?:任何|[一半]个?|一[辆只条位名])?[一-鿿]{1,8}?(?:[、和或与及][一-鿿]{1,6}?)*(?:的(?=[一-鿿])|(?=[，。；、！？,.;!?\s]|$))|"
    r"[无無](?:人(?!机|驾)|文字|字幕|车辆?)的?",
    re.IGNORECASE,
)

_LEFT_COMMAS = re.compile(r"\s*[,，、](?=\s*[,，、.。;；!！?？])|(?:(?<=^)|(?<=[.。!！?？;；]))\s*[,，、]\s*")

_EMPTY_SENTENCE = re.compile(r"(?<=[.!?。！？])(?:\s+[.!?]|[。！？])|^\s*[.!?。！？]+")


def without_absent(text: str) -> str:
    """The text without what it says is not there; quotes stay as they are."""
    return outside(text, _without)


def _without(part: str) -> str:
    shorter = NEGATED.sub("", part)
    if shorter == part:
        return part
    shorter = _EMPTY_SENTENCE.sub("", shorter)
    return re.sub(r"[^\S\n]{2,}", " ", re.sub(r"\s+(?=[,.;!?])", "", _LEFT_COMMAS.sub("", shorter)))
