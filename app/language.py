"""What pages say, in the creator's language: sentences of the catalogue, times, durations, numbers."""

from __future__ import annotations

import re
import time
import unicodedata
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import streamlit as st

from app.jobs import Brief, Status
from app.texts import Language, duration, language_of, text, translated

DAY = 86_400
BADGES = {  # Status -> icon and colour
    Status.QUEUED: ("schedule", "gray"),
    Status.RUNNING: ("autorenew", "blue"),
    Status.REVIEW: ("rate_review", "violet"),
    Status.DONE: ("check", "green"),
    Status.FAILED: ("error", "red"),
    Status.CANCELLED: ("block", "gray"),
    Status.INTERRUPTED: ("power_off", "orange"),
}


# A screen reader speaks the page in the language that its root names, which Streamlit leaves at English.
_TELL = """
export default function (component) {
  document.documentElement.lang = component.data;
}
"""
_tell_browser = st.components.v2.component("page_language", js=_TELL)


def language() -> Language:
    """The language in force: the switch (which the address holds), or the browser's."""
    chosen = st.session_state.get("lang") or st.query_params.get("lang")
    return Language(chosen) if chosen in set(Language) else language_of(st.context.locale)


def language_switch() -> None:
    """Choose the language; one that is not the browser's stays in the address, for a reload and for a shared link.

    Streamlit's own ``bind`` would write the label, not the value, and then refuse every ``st.switch_page``.
    """
    st.session_state.setdefault("lang", language())
    _tell_browser(key="tell_browser", data=language().value, height=1, width=1)
    st.segmented_control(
        t("common.language"),
        list(Language),
        format_func=lambda choice: f":gray[{Language(choice).own_name}]",  # or too faint where it is chosen
        key="lang",
        required=True,
        label_visibility="collapsed",
    )
    chosen = language()
    if chosen is language_of(st.context.locale):
        st.query_params.pop("lang", None)
    elif st.query_params.get("lang") != chosen:
        st.query_params["lang"] = chosen


def t(key: str, **values: Any) -> str:
    """The sentence of that key in the language in force."""
    return text(key, language(), **values)


def t_said(sentence: str) -> str:
    """A sentence of the library, in the language in force if the catalogue knows it."""
    return translated(sentence, language())


def plain(text: str) -> str:
    """``text`` for a Markdown element, shown as it was typed."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def shorten(text: str, length: int) -> str:
    """The beginning of ``text`` in one line, where an ideograph takes the room of two letters."""
    line, room = " ".join(text.split()), length
    for place, character in enumerate(line):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return line[:place].rstrip() + "…"
    return line


def clock(seconds: float) -> str:
    """A duration for people: 8 s, 1:05 min, 2:03 h."""
    if seconds < 59.5:
        return t("common.seconds", seconds=f"{seconds:.0f}")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return t("common.minutes", minutes=minutes, seconds=f"{rest:02d}")
    return t("common.hours", hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def roughly(seconds: float) -> str:
    """A duration that is only estimated: 8 s, 26 min, 2.5 h."""
    return duration(seconds, language())


def took(seconds: float) -> str:
    """A measured duration, where tenths of a second tell something: 0.4 s, 12 s, 1:05 min."""
    return clock(seconds) if seconds >= 10 else t("common.seconds", seconds=f"{seconds:.1f}")


def when(epoch: float) -> str:
    """A point in time for people, in their browser's time zone: 14:32, tomorrow 02:10, 21 Nov 14:32."""
    zone = _zone()
    moment, today = datetime.fromtimestamp(epoch, zone), datetime.fromtimestamp(time.time(), zone).date()
    hour = f"{moment:%H:%M}"
    match (moment.date() - today).days:
        case 0:
            return hour
        case 1:
            return t("common.tomorrow", time=hour)
        case -1:
            return t("common.yesterday", time=hour)
    month = t(f"common.month_{moment.month}")
    if moment.year != today.year:
        return t("common.date_of_year", day=moment.day, month=month, year=moment.year)
    return t("common.date", day=moment.day, month=month, time=hour)


def ago(epoch: float) -> str:
    """How long ago that was: just now, 5 min ago, 3 h ago, 2 days ago; then the date."""
    seconds = time.time() - epoch
    if seconds < 60:
        return t("common.just_now")
    if seconds < 3600:
        return t("common.minutes_ago", minutes=int(seconds // 60))
    if seconds < DAY:
        return t("common.hours_ago", hours=int(seconds // 3600))
    days = int(seconds // DAY)
    if days <= 6:
        return t("common.day_ago") if days == 1 else t("common.days_ago", days=days)
    return when(epoch)


def summary(brief: Brief) -> str:
    """The numbers of a brief in one line."""
    spec = brief.spec
    return t(
        "common.summary",
        width=spec.width,
        height=spec.height,
        frames=spec.num_frames,
        fps=f"{spec.fps:g}",
        seconds=f"{spec.duration:.2f}",
        steps=spec.num_inference_steps,
    )


def status_badge(status: Status) -> None:
    """A job's state in colour and words."""
    icon, colour = BADGES[status]
    st.badge(t(f"common.{status}"), icon=f":material/{icon}:", color=colour)  # type: ignore[arg-type]


def _zone() -> tzinfo | None:
    """The browser's; by its offset, as names would need a database that Windows doesn't have. None: the machine's."""
    offset = st.context.timezone_offset
    return None if offset is None else timezone(timedelta(minutes=-offset))
