"""The video prompt: idea, first frame and sound as one text, in the way that the model was trained to read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agents.answers import plain, usable
from agents.checker import NO_SUBTITLES, Finding, paragraphs, sentence
from agents.models import Ask, Task, Writer, Written
from agents.prompts import instructions
from agents.quotation import outside
from agents.sound import Sound

_ABOUT_SUBTITLES = re.compile(
    r"\b(?:this|the)\s+(?:video|clip)\s+(?:has|contains|shows)\s+no\s+(?:burned-in\s+)?subtitles(?:[.!]|(?=\s*$))",
    re.IGNORECASE,
)
_PARAGRAPH_LABEL = re.compile(r"\A(?:paragraph|part) ?\d ?[:.]\s*|\A(?:audio|sound) ?:\s*(?=The audio )", re.IGNORECASE)


def write_video_prompt(
    writer: Writer,
    idea: str,
    elements_text: str | None,
    sound: Sound,
    *,
    previous: str | None = None,
    findings: Sequence[Finding] = (),
) -> Written:
    """The writer's video prompt, to be made ready by ``finish``; asked once more with what was found in the previous.

    Raises:
        AgentError: the writer couldn't be used, or refused.
    """
    material = {"idea": idea}
    if elements_text:
        material["elements"] = elements_text
    material |= sound.material()
    if previous:
        material["previous"] = previous
    if findings:
        material["violations"] = "\n".join(sentence(finding) for finding in findings)
    return usable(writer.write(Ask(Task.VIDEO_PROMPT, instructions(Task.VIDEO_PROMPT), material)))


def finish(text: str) -> str:
    """The prompt as the model reads it: no wrapping, a paragraph each, and the sentence about subtitles in front, once.

    What the creator quoted stays as it is. Nothing stays nothing, so that the checker sees it.
    """
    before = None
    while text != before:  # wrapping may show only when the sentence before it is gone
        before = text
        text = _tidy(plain(outside(text, lambda part: _ABOUT_SUBTITLES.sub("", part))))
    return f"{NO_SUBTITLES} {text}" if text else ""


def _tidy(prose: str) -> str:
    parts = [" ".join(_PARAGRAPH_LABEL.sub("", part).split()) for part in paragraphs(prose)]
    return "\n\n".join(part for part in parts if part)
