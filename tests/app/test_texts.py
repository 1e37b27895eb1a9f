from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from app.texts import Language, catalogue, language_of, text

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
