"""The sound desk of the Create form: what is said, by whom, and what else is heard."""

from __future__ import annotations

from typing import get_args

import streamlit as st

from agents.sound import MAX_LINES
from app.desk import put
from app.form import Field, Form, Line
from app.language import t


def show_sound_desk(form: Form) -> None:
    """All fields of the sound desk, folded; the label says what is filled in."""
    with st.expander(_label(form), icon=":material/graphic_eq:", key="sound_desk"):
        st.caption(t("create.sound_means"))
        for number, (row, line) in enumerate(zip(_rows(), form.lines, strict=True), 1):
            _show_line(row, number, line)
        st.button(
            t("create.line_add"),
            key="add_line",
            icon=":material/add:",
            disabled=len(form.lines) >= MAX_LINES,
            on_click=_add_line,
        )
        for key in ("effects", "ambience"):
            st.text_input(t(f"create.{key}"), key=key, placeholder=t(f"create.{key}_example"), persist_state="session")
        st.text_input(
            t("create.music"),
            key="music",
            placeholder=t("create.music_example"),
            disabled=form.no_music,
            persist_state="session",
        )
        st.toggle(t("create.no_music"), key="no_music", persist_state="session")


def _label(form: Form) -> str:
    count = sum(any(map(str.strip, line.values())) for line in form.lines)
    parts = [t("create.line_count") if count == 1 else t("create.line_counts", count=count)] if count else []
    parts += [t(f"create.{key}") for key in ("effects", "ambience") if getattr(form, key).strip()]
    if form.no_music or form.music.strip():
        parts.append(t("create.no_music" if form.no_music else "create.music"))
    return t("create.sound_desk", state=t("form.comma").join(parts) or t("create.sound_from_idea"))


def _rows() -> list[int]:
    """A name for each line that stays its own when others go: what is typed in one may come with the click."""
    rows: list[int] = st.session_state.setdefault("line_rows", [])
    if len(rows) != len(st.session_state.lines):
        rows = st.session_state.line_rows = list(range(len(st.session_state.lines)))
    return rows


def _show_line(row: int, number: int, line: Line) -> None:
    with st.container(border=True, key=f"dialogue_{row}"):
        with st.grid(2, key=f"who_{row}"):
            _show_field(row, number, line, "speaker")
            _show_field(row, number, line, "language")
        _show_field(row, number, line, "words")
        st.button(
            t("create.line_remove", number=number),
            key=f"remove_line_{row}",
            icon=":material/close:",
            type="tertiary",
            on_click=_remove_line,
            args=(row,),
        )


def _show_field(row: int, number: int, line: Line, name: Field) -> None:
    key = f"line_{row}_{name}"
    put(key, line.get(name, ""))
    st.text_input(
        t(f"create.line_{name}", number=number),
        key=key,
        placeholder=t(f"create.line_{name}_example"),
        on_change=_take,
        args=(row, name),
    )


def _take(row: int, name: Field) -> None:
    words = st.session_state[f"line_{row}_{name}"]
    st.session_state.lines = [
        {**line, name: words} if other == row else line
        for other, line in zip(_rows(), st.session_state.lines, strict=True)
    ]


def _add_line() -> None:
    rows = _rows()
    st.session_state.line_rows = [*rows, max(rows, default=-1) + 1]
    st.session_state.lines = [*st.session_state.lines, dict.fromkeys(get_args(Field), "")]


def _remove_line(row: int) -> None:
    kept = [(other, line) for other, line in zip(_rows(), st.session_state.lines, strict=True) if other != row]
    st.session_state.line_rows = [other for other, _ in kept]
    st.session_state.lines = [line for _, line in kept]
