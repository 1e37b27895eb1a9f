"""SGLang servers on the pages: where a clip is made, how the servers stand, how one is started."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from app.desk import put, settings
from app.jobs import LOCAL, SGLANG
from app.language import ago, plain, t, t_said
from app.launch import SPLITS, Launch, command_of
from app.servers import MODELS, Look, Servers, State, address_of
from app.settings import Server

REFRESH_SECONDS = 5.0
LOOK_SECONDS = 0.5
STATES: dict[State, tuple[str, Literal["green", "orange", "red"]]] = {  # State -> icon and colour
    State.READY: ("check", "green"),
    State.WARMING_UP: ("hourglass_top", "orange"),
    State.UNHEALTHY: ("error", "red"),
    State.UNREACHABLE: ("link_off", "red"),
    State.DENIED: ("key_off", "red"),
    State.TOO_OLD: ("history", "red"),
    State.OTHER_MODEL: ("swap_horiz", "red"),
    State.NOT_SGLANG: ("help", "red"),
}


@st.cache_resource
def servers() -> Servers:
    """The last looks at the servers, of all visitors."""
    return Servers()


def choose_engine() -> str:
    """Where the clip is made: here, on any server, or on one of them."""
    known = settings().sglang
    labels = {LOCAL: t("create.engine_local")}
    if known:
        labels[SGLANG] = t("create.engine_any")
    labels |= {f"{SGLANG}:{name}": t("create.engine_server", name=name) for name in known}
    if st.session_state.engine not in labels:
        put("engine", LOCAL)
    chosen: str = st.selectbox(
        t("create.engine"),
        labels,
        format_func=labels.__getitem__,
        key="engine",
        help=t("create.engine_help" if known else "create.engine_help_none"),
    )
    if chosen != LOCAL:
        for name, seen in _asked(chosen).items():
            st.caption(_line(name, seen))
        _watch_until_seen()
    return chosen


def choose_model(engine: str) -> str:
    """Which of their models; all there are, where no server has said yet which one it serves."""
    found = {seen.model for seen in _asked(engine).values() if seen and seen.model}
    models = [model for model in MODELS if model in found] or list(MODELS)
    if st.session_state.model not in models:
        put("model", models[0])
    if len(models) == 1:
        return models[0]
    chosen: str = st.selectbox(t("create.model"), models, key="model", help=t("create.model_help"))
    return chosen


def show_servers() -> None:
    """The servers of the settings, each with its state, and how to start one."""
    st.header(t("settings.servers"), anchor=False)
    st.caption(t("settings.servers_hint"))
    if settings().sglang:
        st.fragment(_show_states, run_every=REFRESH_SECONDS)()
    with st.expander(t("settings.start_server"), icon=":material/terminal:", key="start_server"):
        _show_launch()


def _show_states() -> None:
    known = settings().sglang
    grid = st.grid(2, min_column_width=320, gap=("small", "medium"), key="servers")
    for name, seen in servers().seen(known).items():
        with grid.cell(), st.container(border=True, gap="xsmall", height="stretch", key=f"server_{name}"):
            _show_server(name, known[name], seen)
    _watch_until_seen()


def _show_server(name: str, server: Server, seen: Look | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"server_name_{name}"):
        st.subheader(plain(name), anchor=False, width="content")
        if seen is None:
            st.badge(t("settings.server_looking"), icon=":material/hourglass_top:", color="gray")
        else:
            icon, colour = STATES[seen.state]
            st.badge(t(f"settings.server_{seen.state}"), icon=f":material/{icon}:", color=colour)
    st.caption(plain(address_of(server)))
    if seen is None:
        return
    facts = [seen.model or "", f"SGLang {seen.version}" if seen.version else "", ago(seen.at)]
    st.caption(plain(" · ".join(filter(None, facts))))
    if seen.error:
        st.error(plain(t_said(str(seen.error))), icon=":material/error:")
    elif not seen.reports:
        st.caption(t("settings.server_no_progress"))


def _show_launch() -> None:
    st.caption(t("settings.start_hint"))
    with st.grid(2, key="launch"):
        model = st.selectbox(t("create.model"), MODELS, key="launch_model")
        gpus = st.selectbox(t("settings.start_gpus"), SPLITS, key="launch_gpus")
        port = st.number_input(t("settings.start_port"), 1, 65535, 30000, key="launch_port")
    compiled = st.toggle(t("settings.start_compiled"), key="launch_compiled", help=t("settings.start_compiled_help"))
    st.code(command_of(Launch(model, gpus, port, compiled)), language="bash")
    st.caption(t("settings.start_then", port=port))


def _asked(engine: str) -> dict[str, Look | None]:
    """How those servers stand that this engine means."""
    name = engine.partition(":")[2]
    return {each: seen for each, seen in servers().seen(settings().sglang).items() if name in ("", each)}


def _line(name: str, seen: Look | None) -> str:
    if seen is None:
        return f":material/hourglass_top: {plain(name)}: {t('settings.server_looking')}"
    icon, colour = STATES[seen.state]
    said = t_said(str(seen.error)) if seen.error else f"{name} · {seen.model} · {t('settings.server_ready')}"
    return f":{colour}[:material/{icon}: {plain(said)}]"


def _watch_until_seen() -> None:
    """Draw the page anew once every server was looked at."""
    if None in servers().seen(settings().sglang).values():
        st.fragment(_rerun_when_seen, run_every=LOOK_SECONDS)()


def _rerun_when_seen() -> None:
    if None not in servers().seen(settings().sglang).values():
        st.rerun()
