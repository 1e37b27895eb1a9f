"""What the agents say in English is in the catalogue, and is said in Chinese."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.models import Ability, known
from agents.troubles import SENTENCES, AgentError, Trouble
from app.texts import Language, catalogue, translated

ROOT = Path(__file__).resolve().parent.parent.parent
VALUE = "7/x"
SPEAKING = r"missing|problem|unfit|flaw|wrong_with|^_no_|lacking"  # functions that give a sentence back
KEYS = [key for key in catalogue() if key.startswith("agents.") and key != "agents.not_here"]


@pytest.mark.parametrize("trouble", Trouble)
def test_every_trouble_is_in_the_catalogue_as_it_is_said(trouble: Trouble) -> None:
    assert catalogue()[f"agents.{trouble}"]["en"] == SENTENCES[trouble]


@pytest.mark.parametrize("key", KEYS)
def test_a_sentence_of_the_agents_is_recognised_and_keeps_its_values(key: str) -> None:
    entry = catalogue()[key]
    names = sorted(set(re.findall(r"\{(\w+)\}", entry["en"])))
    values = {name: f"7.{index}/x" for index, name in enumerate(names)}
    said = entry["en"].format(**values)
    assert translated(said, Language.ZH) == entry["zh"].format(**values)
    assert translated(said, Language.EN) == said


def spoken() -> Iterator[str]:
    """The sentences that stand in the agents' code: ``said=…``, what ``missing`` and ``problem`` give back, …"""
    for file in sorted((ROOT / "agents").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield from (text for found in _said(node) if (text := _sample(found)) and re.search("[a-z]{3}", text))


def _said(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "said")
        if name in ("unreadable", "_unreachable") or (name == "_problem" and len(node.args) == 1):
            yield from node.args[-1:]
    if isinstance(node, ast.FunctionDef) and re.search(
        "missing|problem|unfit|flaw|wrong_with|^_no_|lacking", node.name
    ):
        yield from (found.value for found in ast.walk(node) if isinstance(found, ast.Return) and found.value)


def _sample(found: ast.expr) -> str:
    if isinstance(found, ast.IfExp):
        return _sample(found.body)
    parts = found.values if isinstance(found, ast.JoinedStr) else [found]
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) and isinstance(part.value, str) else VALUE
        for part in parts
        if isinstance(part, ast.Constant | ast.FormattedValue)
    )


@pytest.mark.parametrize("sentence", sorted(set(spoken())))
def test_what_the_agents_say_is_said_in_chinese(sentence: str) -> None:
    """A sentence that fails here belongs into app/texts/agents.toml."""
    assert re.search(r"[\u4e00-\u9fff]", translated(sentence, Language.ZH))


def test_sentences_within_sentences_are_said_too() -> None:
    error = AgentError(Trouble.UNREACHABLE, endpoint="This machine", address="http://x", said="it was closed")
    assert translated(str(error), Language.ZH) == "无法连接 本机（http://x）：连接已被关闭"
    for ability, word in ((Ability.TEXT, "文字"), (Ability.VISION, "看图"), (Ability.IMAGE, "画图")):
        error = AgentError(Trouble.CANNOT, endpoint="MiniMax", ability=ability)
        assert translated(str(error), Language.ZH) == f"MiniMax 做不了这一步：它在这里没有{word}模型。"


@pytest.mark.parametrize("said", ["", "{0.__class__} {said}", "a: b: c (d)", "x" * 300, "He said: it was closed."])
def test_what_others_said_stays_as_it_is(said: str) -> None:
    error = AgentError(Trouble.REJECTED, endpoint="OpenAI", said=said)
    assert translated(str(error), Language.ZH) == f"OpenAI 没有接受请求：{said}"
    assert translated(str(error), Language.EN) == str(error)


def test_titles_that_are_words_are_said_in_chinese() -> None:
    english = [entry.title for entry in known().values() if re.search(r"[a-z] |\)", entry.title)]
    assert {title for title in english if translated(title, Language.ZH) == title} <= {"LM Studio"}
