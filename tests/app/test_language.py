from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from app import language
from app.texts import Language

NOW = datetime(2026, 11, 20, 13, 0, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.fixture(params=Language)
def spoken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Language:
    chosen: Language = request.param
    monkeypatch.setattr(language, "language", lambda: chosen)
    monkeypatch.setattr(language, "_zone", lambda: timezone(timedelta(hours=1)))
    monkeypatch.setattr(time, "time", lambda: NOW)
    return chosen


def said(spoken: Language, english: str, chinese: str) -> str:
    return {Language.EN: english, Language.ZH: chinese}[spoken]


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (0.4, "0 s", "0 秒"),
        (59.4, "59 s", "59 秒"),
        (59.6, "1:00 min", "1 分 00 秒"),
        (65, "1:05 min", "1 分 05 秒"),
        (7380, "2:03 h", "2 小时 03 分"),
    ],
)
def test_durations(spoken: Language, seconds: float, english: str, chinese: str) -> None:
    assert language.clock(seconds) == said(spoken, english, chinese)


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (HOUR, "15:00", "15:00"),
        (11 * HOUR, "tomorrow 01:00", "明天 01:00"),
        (-DAY, "yesterday 14:00", "昨天 14:00"),
        (10 * DAY, "30 Nov, 14:00", "11月30日 14:00"),
        (-365 * DAY, "20 Nov 2025", "2025年11月20日"),
    ],
)
def test_points_in_time_in_the_browsers_zone(spoken: Language, seconds: float, english: str, chinese: str) -> None:
    assert language.when(NOW + seconds) == said(spoken, english, chinese)


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (-5, "just now", "刚刚"),  # a clock that was set back
        (30, "just now", "刚刚"),
        (5 * MINUTE + 59, "5 min ago", "5 分钟前"),
        (3 * HOUR, "3 h ago", "3 小时前"),
        (DAY, "1 day ago", "1 天前"),
        (3 * DAY, "3 days ago", "3 天前"),
        (10 * DAY, "10 Nov, 14:00", "11月10日 14:00"),
    ],
)
def test_how_long_ago(spoken: Language, seconds: float, english: str, chinese: str) -> None:
    assert language.ago(NOW - seconds) == said(spoken, english, chinese)


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [
        ("A gull", 6, "A gull"),
        ("A  gull\nlands", 6, "A gull…"),
        ("海鸥落下", 8, "海鸥落下"),
        ("海鸥落下", 5, "海鸥…"),
        ("", 5, ""),
    ],
)
def test_texts_are_shortened_to_what_they_take(text: str, length: int, short: str) -> None:
    assert language.shorten(text, length) == short


def test_what_was_typed_is_shown_as_typed() -> None:
    assert language.plain("*a* [b](c) $x$ :red[y] 海") == r"\*a\* \[b\]\(c\) \$x\$ \:red\[y\] 海"
