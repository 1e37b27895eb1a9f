from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from agents.troubles import Trouble
from app.jobs import Kind
from app.texts import Language, catalogue, language_of, text, translated

ROOT = Path(__file__).resolve().parent.parent.parent


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("key", catalogue())
def test_every_sentence_is_there_in_both_languages_with_the_same_placeholders(key: str) -> None:
    entry = catalogue()[key]
    assert set(entry) == set(Language)
    assert all(template.strip() for template in entry.values())
    assert placeholders(entry["en"]) == placeholders(entry["zh"])


@pytest.mark.parametrize(
    ("locale", "language"),
    [("zh-CN", Language.ZH), ("zh", Language.ZH), ("en-GB", Language.EN), ("de-DE", Language.EN), (None, Language.EN)],
)
def test_the_browsers_language_is_followed(locale: str | None, language: Language) -> None:
    assert language_of(locale) is language


def test_values_are_not_read_as_templates() -> None:
    key = next(key for key in catalogue() if placeholders(catalogue()[key]["en"]))
    values = dict.fromkeys(placeholders(catalogue()[key]["en"]), "{0.__class__}")
    assert "{0.__class__}" in text(key, Language.EN, **values)


def test_every_key_that_the_code_names_is_in_the_catalogue() -> None:
    for path in [*(ROOT / "app").glob("*.py"), *(ROOT / "pages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "t":
                (first, *_) = node.args
                if isinstance(first, ast.Constant):
                    assert first.value in catalogue(), f"{path.name}:{node.lineno}"


# What the library says


@pytest.mark.parametrize("key", [key for key in catalogue() if key.startswith("library.")])
def test_a_sentence_of_the_library_is_recognised_and_keeps_its_values(key: str) -> None:
    entry = catalogue()[key]
    names = placeholders(entry["en"])
    said = entry["en"].format(**{name: f"7.{index}/x" for index, name in enumerate(sorted(names))})
    chinese = translated(said, Language.ZH)
    assert chinese == entry["zh"].format(**{name: f"7.{index}/x" for index, name in enumerate(sorted(names))})
    assert translated(said, Language.EN) == said


def test_the_words_in_a_sentence_are_said_too() -> None:
    assert translated("num_frames 6 is not of the form 4n + 1; nearest valid: 5 and 9.", Language.ZH).startswith("帧数")


def test_what_is_not_known_stays_as_it_is() -> None:
    assert translated("Something {else} happened.", Language.ZH) == "Something {else} happened."


def test_every_kind_of_failure_has_its_sentence_and_remedy() -> None:
    for kind in (*Kind, *Trouble):
        assert {f"failure.{kind}", f"failure.{kind}_remedy"} <= set(catalogue())


def test_bold_is_closed_where_chinese_markdown_closes_it() -> None:
    """CommonMark doesn't close ** after punctuation if a character follows at once."""
    for key, entry in catalogue().items():
        parts = entry["zh"].split("**")
        for before, after in zip(parts[1::2], parts[2::2], strict=True):
            assert not (before[-1] in "。，：；！？）" and after[:1] not in ("", " ", "\n")), key
