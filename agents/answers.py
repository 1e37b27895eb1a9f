"""A model's answer made the text that was asked for: without its wrapping, and known as a refusal if it is one."""

from __future__ import annotations

import re
from dataclasses import replace

from agents.models import Written
from agents.quotation import PAIRS, outside, quotations, unquoted
from agents.troubles import AgentError, Trouble

LONGEST_ANSWER = 20_000  # characters; what is longer is no answer to anything that is asked here
LONGEST_PREAMBLE = 160

_THINKING = re.compile(r"<(think|thinking)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)  # the chat template had opened it
_FENCED = re.compile(r"^[^\S\n]*```[^\n`]*\n(.*?)(?:^[^\S\n]*```[^\S\n]*$|\Z)", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"\A```\w*|```\Z|^[^\S\n]*```[^\n`]*$", re.MULTILINE)
_HEADING = re.compile(
    r"^[^\S\n]*(?:#{1,6}[^\S\n][^\n]*|[-*_=]{3,}|(?:\*\*|__)[^\n*_.!?。！？\"“]{1,60}(?:\*\*|__):?)[^\S\n]*$",
    re.MULTILINE,
)
_PREAMBLES = (
    re.compile(
        r"\A\s*(?:sure|certainly|of course|absolutely|got it|understood|好的|当然|没问题)[!！.。][^\S\n]*\n", re.I
    ),
    re.compile(
        r"\A\s*(?:(?:sure|certainly|of course|absolutely|okay|ok|great|got it|understood)[,.!]"
        r"|here(?:['’]s| is| are)\b|below is\b|(?:好的|当然|没问题)[，,。！!]|以下|下面|这是)"
        r"[^\n\"“「]{0,160}[:：][^\S\n]*\n",
        re.I,
    ),
    re.compile(r"\A\s*(?:here(?:['’]s| is)|below is)[^\n:.\"“]{0,80}\bprompt[^\n:.\"“]{0,40}:\s*", re.I),
    re.compile(r"\A\s*(?:the |your |my )?(?:(?:final|revised|rewritten|shortened|video|image) )*prompt\s*:\s*", re.I),
    re.compile(r"\A\s*(?:好的[，,]?\s*)?(?:以下|下面|这)是[^\n：:。“「\"]{0,40}[:：]\s*"),
)
_REMARK = re.compile(
    r"\n\s*(?:\(?word count"
    r"|[(（]?字数|let me know|feel free|i hope (?:this|that)|would you like|如需|希望这)[^\n]*\s*\Z",
    re.I,
)
_REFUSAL = re.compile(
    r"(?:(?:hello|hi|您好|你好)[,.!，。！]\s*)?(?:"
    r"(?:i['’]?m|i am|we['’]?re|we are) (?:(?:so|very|really|terribly) )?(?:sorry|unable|afraid|not able)\b"
    r"|(?:i|we) (?:can['’]?t|cannot|can not|won['’]?t|will not|(?:must|have to|need to) (?:decline|refuse)|apologi[sz]e"
    r"|do(?:n['’]t| not) feel comfortable)\b"
    r"|unfortunately,? (?:i|we)\b|sorry\b|(?:my )?apologies\b|as an ai\b"
    r"|(?:this|your) (?:request|content|prompt) (?:may )?(?:violates?|goes against)"
    r"|(?:非常|很|十分)?(?:抱歉|对不起|遗憾)|不好意思|(?:我|我们)(?:无法|不能|没办法|不可以)"
    r"|无法(?:提供|生成|协助|满足|完成|处理)|作为(?:一个|一名)?(?:AI|人工智能|语言模型))",
    re.I,
)
_FIRST_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|\Z)|[。！？]|\Z)", re.DOTALL)


def usable(answer: Written) -> Written:
    """The answer with its prose alone, without anything that models like to put around it.

    Raises:
        AgentError: it is a refusal, or too long to be an answer, or nothing but thinking.
    """
    text = without_thinking(answer.text)
    if len(text) > LONGEST_ANSWER:
        raise unreadable(answer, f"it is {len(text)} characters long.")
    text = plain(text)
    refuse_refusal(text, answer)
    if not text:
        raise unreadable(answer, "there is nothing in it but its thinking or its wrapping.")
    return replace(answer, text=text)


def plain(text: str) -> str:
    """The prose of an answer: no thinking, fence, preamble, remark, heading, bold type or marks around the whole."""
    text, before = text.replace("\r\n", "\n").strip(), None
    while text != before:  # each wrapping may hold another
        before = text
        text = _unwrapped(_unfenced(without_thinking(text)))
        for wrapping in (_HEADING, *_PREAMBLES, _REMARK):
            text = wrapping.sub("", text)
        text = outside(text, lambda part: part.replace("**", "")).strip()
    return text


def without_thinking(text: str) -> str:
    """The answer without what a reasoning model thought before it."""
    return _THOUGHT.sub("", _THINKING.sub("", text)).strip()


def refuse_refusal(text: str, answer: Written) -> None:
    """Raise ``AgentError`` if the text begins as models begin that won't do what they are asked, in either language."""
    if _REFUSAL.match(text):
        said = _FIRST_SENTENCE.match(text)
        raise AgentError(Trouble.REFUSED, endpoint=_model(answer), said=said.group() if said else text)


def unreadable(answer: Written, said: str) -> AgentError:
    """The error for an answer that isn't what was asked for."""
    return AgentError(Trouble.UNREADABLE, model=_model(answer), said=said)


def after(first: Written, second: Written) -> Written:
    """The second of two answers with the tokens of both."""
    return replace(
        second,
        tokens_in=_sum(first.tokens_in, second.tokens_in),
        tokens_out=_sum(first.tokens_out, second.tokens_out),
    )


def _unfenced(text: str) -> str:
    """What stands in the fence if the rest is a preamble and a remark; otherwise the text without its fences."""
    found = _FENCED.search(text)
    if found and found.group(1).strip() and len(text) - len(found.group()) <= 2 * LONGEST_PREAMBLE:
        return found.group(1).strip()
    return _FENCE.sub("", text).strip()


def _unwrapped(text: str) -> str:
    """The text without marks around the whole of it, also where it has several paragraphs, which no quotation spans."""
    text = unquoted(text)
    if len(text) > 1 and text[0] in PAIRS and text[-1] in PAIRS[text[0]]:
        found = quotations(text)
        if all(quotation.start > 0 and quotation.end < len(text) for quotation in found):
            return text[1:-1].strip()
    return text


def _model(answer: Written) -> str:
    return answer.model or "The model"


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None and second is None else (first or 0) + (second or 0)
