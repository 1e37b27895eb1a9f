"""Every sentence that a creator reads, in English and Chinese: one catalogue, a file a page.

A key is `file.name`, as in ``create.generate``; a file holds ``[name]`` tables with ``en`` and ``zh``.
"""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

GIGA, MEGA, KILO = 1 << 30, 1 << 20, 1 << 10
SAID = ("library.", "agents.", "remote.")  # files of sentences that are made elsewhere, in English


class Language(StrEnum):
    """A language of the catalogue; the value is its browser locale's beginning."""

    EN = "en"
    ZH = "zh"

    @property
    def own_name(self) -> str:
        """What the language calls itself."""
        return {"en": "English", "zh": "中文"}[self.value]


def language_of(locale: str | None) -> Language:
    """The catalogue's language for a browser locale such as zh-CN; English for those it doesn't have."""
    return next((language for language in Language if (locale or "").lower().startswith(language)), Language.EN)


def text(key: str, language: Language, **values: Any) -> str:
    """The sentence of that key. ``values`` fill its {placeholders}; they are never read as templates themselves.

    Raises:
        KeyError: no such key.
    """
    template = catalogue()[key][language]
    return template.format(**values) if values else template


def size(amount: int) -> str:
    """Bytes for people: 940 KB, 12 MB, 3.4 GB."""
    if amount >= GIGA:
        return f"{amount / GIGA:.1f} GB"
    return f"{amount / MEGA:.0f} MB" if amount >= MEGA else f"{amount / KILO:.0f} KB"


def duration(seconds: float, language: Language) -> str:
    """About so long: 0.8 s, 26 min, 2.5 h."""
    if seconds < 99.5:
        return text("common.seconds", language, seconds=f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}")
    if seconds < 99.5 * 60:
        return text("common.about_minutes", language, minutes=f"{seconds / 60:.0f}")
    return text("common.about_hours", language, hours=f"{seconds / 3600:.1f}")


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Key -> language -> template, of every file beside this one."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(Path(__file__).parent.glob("*.toml")):
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
        found |= {f"{file.stem}.{name}": entry for name, entry in entries.items()}
    return found


def translated(sentence: str, language: Language) -> str:
    """A sentence of the library's or the agents' (their English is in ``SAID``); one that isn't known as it is."""
    for name, pattern in _patterns():
        if found := pattern.fullmatch(sentence):
            values = {key: _word(value, language) for key, value in found.groupdict().items()}
            return catalogue()[name][language].format(**values)
    return sentence


def _word(value: str, language: Language) -> str:
    """What stands in a sentence: a name that the library has words for, another sentence or a list, or anything."""
    entry = catalogue().get(f"library.{value}") if value.isidentifier() else None
    if entry:
        return entry[language]
    parts = value.split(", ")
    said = [translated(part, language) for part in parts]
    every = all(new != old for new, old in zip(said, parts, strict=True))
    return text("form.comma", language).join(said) if every else translated(value, language)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Key -> what its English matches; those with more words of their own first, those with none not at all."""
    entries = [(key, entry["en"]) for key, entry in catalogue().items() if key.startswith(SAID)]
    lengths = {key: len(re.sub(r"\{\w+\}", "", template)) for key, template in entries}
    entries.sort(key=lambda item: -lengths[item[0]])
    return [(key, re.compile(_pattern(template), re.DOTALL)) for key, template in entries if lengths[key]]


def _pattern(template: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    return "".join(f"(?P<{part}>.*?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
