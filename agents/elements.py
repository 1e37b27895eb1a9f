"""What is seen in a first frame, described by a model that sees: style, camera, elements and the text on screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agents.answers import LONGEST_ANSWER, after, plain, refuse_refusal, unreadable, without_thinking
from agents.models import Ask, Task, Writer, Written
from agents.prompts import instructions
from agents.quotation import unquoted

NO_TEXT = "none"
TEXT_MARKS = (('"', '"'), ("“", "”"), ("「", "」"), ("『", "』"), ("«", "»"))  # the first pair that a text doesn't hold
MOST_STARTS = 20  # braces at which an object is looked for
NOT_JSON = (
    "Your answer before this one was not one JSON object and could not be read. Answer with the JSON object alone: it "
    "begins with { and ends with }, and nothing stands before or after it."
)

_NAMES = {
    "style": ("style", "visual style", "视觉风格", "风格"),
    "camera": ("camera", "cinematography", "camera and cinematography", "镜头", "摄影"),
    "elements": ("elements", "visual elements", "视觉元素", "元素"),
    "text": ("text", "texts", "ocr", "text ocr", "on screen text", "on-screen text", "text on screen", "文字", "文本"),
}
_FIELD_OF = {name: field for field, names in _NAMES.items() for name in names}
_LABEL = re.compile(
    rf"[\s*#>-]*?(?P<bold>\*\*)?(?P<name>{'|'.join(sorted(_FIELD_OF, key=len, reverse=True))})"
    r"(?(bold)(?:\*\*)?|)\s*[:：](?(bold)(?:\*\*)?|)\s*",
    re.IGNORECASE,
)
_QUOTED = re.compile("|".join(f"{left}([^{left}{right}]+){right}" for left, right in TEXT_MARKS))
_NOTHING = re.compile(
    r"[\s.。()（）-]*(?:none|no text|no visible text|n/?a|null|nothing|无|没有|没有文字|无文字)?[\s.。()（）-]*",
    re.IGNORECASE,
)
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


@dataclass(frozen=True)
class Elements:
    """What is seen: three descriptions, and each text on screen exactly as it is written there."""

    style: str = ""
    camera: str = ""
    elements: str = ""
    text: tuple[str, ...] = ()

    def as_text(self) -> str:
        """As a creator reads and edits it, and as the rewriter is given it: a paragraph each."""
        rows = {
            "Visual style": _line(self.style),
            "Camera": _line(self.camera),
            "Elements": _line(self.elements),
            "Text": ", ".join(_marked(text) for text in self.text) or NO_TEXT,
        }
        return "\n\n".join(f"{label}: {row}".rstrip() for label, row in rows.items())

    @classmethod
    def from_text(cls, text: str) -> Elements:
        """Read again what a creator may have edited. What stands under no label counts as elements."""
        rows: dict[str, list[str]] = {field: [] for field in _NAMES}
        field = "elements"
        for line in text.splitlines():
            label = _LABEL.match(line)
            if label:
                field = _FIELD_OF[label["name"].casefold()]
            rows[field].append(line[label.end() if label else 0 :].strip())
        style, camera, elements = (_line(" ".join(rows[name])) for name in ("style", "camera", "elements"))
        return cls(style, camera, elements, _texts("\n".join(rows["text"])))


def describe(writer: Writer, picture: bytes) -> tuple[Elements, Written]:
    """What a model sees in a picture, and its answer; asked for once more if the answer isn't JSON.

    Raises:
        AgentError: the writer couldn't be used, refused, or gave twice what can't be read.
    """
    system = instructions(Task.ELEMENTS)
    answer = writer.write(Ask(Task.ELEMENTS, system, images=(picture,), json=True))
    seen = _read(answer)
    if seen is None:
        again = Ask(Task.ELEMENTS, f"{system}\n\n{NOT_JSON}", images=(picture,), json=True)
        answer = after(answer, writer.write(again))
        seen = _read(answer)
    if seen is None:
        raise unreadable(answer, f"it is no JSON object: {answer.text}")
    return seen, answer


def _read(answer: Written) -> Elements | None:
    text = without_thinking(answer.text)
    if len(text) > LONGEST_ANSWER:
        raise unreadable(answer, f"it is {len(text)} characters long.")
    for value in _objects(text):
        style, camera, elements, texts = (_fields(value).get(name) for name in _NAMES)
        seen = Elements(_prose(style), _prose(camera), _prose(elements), _texts(texts))
        if seen.style or seen.camera or seen.elements:
            refuse_refusal(seen.elements or seen.style, answer)
            return seen
    refuse_refusal(plain(text), answer)
    return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of an answer, wherever they begin, with the commas forgiven that JSON doesn't allow."""
    starts = [match.start() for match in re.finditer(r"\{", text)][:MOST_STARTS]
    for start in starts:
        tail = text[start:]
        for candidate in (tail, _STRING_OR_COMMA.sub(lambda match: match[1] or "", tail)):
            try:
                value, _ = json.JSONDecoder(strict=False).raw_decode(candidate)
            except (ValueError, RecursionError):  # not JSON, or nested beyond all measure
                continue
            yield value


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    """The fields by our names, however a model spelt theirs: "Visual_Style" is the style."""
    spelt = {re.sub(r"[\W_]+", " ", name).strip().casefold(): content for name, content in value.items()}
    return {_FIELD_OF[name]: content for name, content in spelt.items() if name in _FIELD_OF}


def _prose(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_prose(content)}" for name, content in value.items())
    if isinstance(value, list):
        return "; ".join(_prose(item) for item in value)
    return "" if value is None else _line(str(value))


def _texts(value: Any) -> tuple[str, ...]:
    """The texts on screen of a list, or of one string: those in marks, or else one a line or between commas."""
    if isinstance(value, str):
        if _NOTHING.fullmatch(value):
            return ()
        marked = ["".join(groups) for groups in _QUOTED.findall(value)]
        return _distinct(marked or re.split(r"\n|[,，、;；]", value))
    items = value if isinstance(value, list) else []
    texts = _distinct(unquoted(_prose(_content(item))) for item in items)
    return () if len(texts) == 1 and _NOTHING.fullmatch(texts[0]) else texts


def _content(item: Any) -> Any:
    """The text of an item that a model made an object, as {"content": "OPEN", "place": "above the door"}."""
    if not isinstance(item, dict):
        return item
    return next((item[name] for name in ("text", "content", "value", "words") if name in item), None)


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for text in texts if (line := _line(text))))


def _marked(text: str) -> str:
    """The text in marks that it doesn't hold itself; one that holds all kinds loses the straight ones."""
    text = _line(text)
    for left, right in TEXT_MARKS:
        if left not in text and right not in text:
            return f"{left}{text}{right}"
    return '"{}"'.format(text.replace('"', "'"))


def _line(text: str) -> str:
    return " ".join(text.split())
