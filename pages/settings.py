"""Settings: models and providers, what is in force and where it comes from, checkpoints, machine, disk, worker, log."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from app import cards, plantable, serverdesk, ui
from app.checkpoints import checkpoint_folder
from app.desk import probes
from app.endpoints import Row, State, all_rows
from app.jobs import Mode
from app.machine import ThisMachine, last_lines, look
from app.origins import InForce, Origin, in_force
from app.probes import Failed, Passed, Running
from app.texts import size
from app.worker import is_running
from mova.layout import CheckpointInfo, ComponentInfo

LOG_LINES = 200
EXPLAINED = ("data", "host", "port", "checkpoint", "device", "dtype", "offload", "preset", "loudness")
EXPLAINED += ("free_first_expert", "watchdog_minutes", "sglang_minutes")
LOOK_SECONDS = 0.5  # between two looks at a test under way
STATES = {  # State -> icon and colour
    State.KEY_SET: ("key", "green"),
    State.KEY_MISSING: ("key_off", "gray"),
    State.SET_UP: ("check", "green"),
    State.NOT_SET_UP: ("radio_button_unchecked", "gray"),
    State.NOTHING_NEEDED: ("check", "green"),
    State.BROKEN: ("error", "red"),
}
ABILITIES = {"text": "notes", "vision": "visibility", "image": "brush"}  # what a model can do -> icon


@st.cache_data(ttl="20s", show_spinner=False)
def machine(data: Path) -> ThisMachine:
    return look(data)


def show_providers() -> None:
    found = all_rows(settings.providers)
    more = [row for row in found if not row.in_use]
    st.header(ui.t("settings.providers"), anchor=False)
    st.caption(ui.t("settings.providers_hint"))
    show_cards([row for row in found if row.in_use], "providers")
    if more:
        with st.expander(ui.t("settings.more_providers"), icon=":material/add_circle:", key="more_providers"):
            show_cards(more, "providers_more")


def show_cards(found: Sequence[Row], key: str) -> None:
    grid = st.grid(2, min_column_width=320, gap=("small", "medium"), key=key)
    for row in found:
        with grid.cell(), st.container(border=True, gap="xsmall", height="stretch", key=f"provider_{row.name}"):
            show_provider(row)


def show_provider(row: Row) -> None:
    icon, colour = STATES[row.state]
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"provider_name_{row.name}"):
        st.subheader(ui.plain(ui.t_said(row.title)), anchor=False, width="content")
        st.badge(ui.t(f"settings.state_{row.state}"), icon=f":material/{icon}:", color=colour)
    with st.container(horizontal=True, gap="xsmall", key=f"provider_abilities_{row.name}"):
        for ability in row.abilities:
            st.badge(ui.t(f"settings.can_{ability}"), icon=f":material/{ABILITIES[ability]}:", color="gray")
    st.markdown("  \n".join(facts_of(row)))
    if row.checked:
        link = f"[{ui.t('settings.documentation')}]({row.documentation})"
        st.caption(ui.t("settings.checked", day=row.checked.isoformat(), link=link))
    if row.problem:
        st.error(ui.plain(ui.t_said(row.problem)), icon=":material/error:")
    elif row.usable:
        show_test(row)
    else:
        st.markdown(what_to_set(row))


def facts_of(row: Row) -> list[str]:
    """Its address, and the models that are used where none is named; of the built-in, what it is."""
    if row.inside:
        return [ui.t("settings.builtin_is"), ui.t("settings.builtin_adds")]
    if not row.abilities:
        return []
    facts = [address_of(row)] if not row.heavy else []
    for model, uses in row.models:
        words = " · ".join(ui.t(f"settings.can_{use}") for use in uses)
        facts.append(ui.t("settings.model_for", model=code(model), uses=words))
    if not row.models:
        facts.append(ui.t("settings.no_model_heavy" if row.heavy else "settings.no_model", name=ui.plain(row.name)))
    return facts


def address_of(row: Row) -> str:
    return ui.t("settings.address", address=code(row.address)) if row.address else ui.t("settings.address_own")


def code(text: str) -> str:
    return f"`{text.replace('`', '')}`"


def what_to_set(row: Row) -> str:
    needs_key = row.state is State.KEY_MISSING
    variable = row.key_variable if needs_key else f"{row.address_variable}={row.address}"
    entry = 'api_key = "…"' if needs_key else f'base_url = "{row.address}"'
    return ui.t(
        "settings.set_key" if needs_key else "settings.set_address",
        variable=code(variable),
        entry=code(entry),
        table=code(f"[studio.providers.{row.name}]"),
    )


def show_test(row: Row) -> None:
    title, outcome = ui.plain(ui.t_said(row.title)), probes().result(row.name)
    model = "" if row.models else model_to_test(row)
    st.button(
        ui.t("settings.test", title=title),
        key=f"test_{row.name}",
        icon=":material/network_check:",
        help=ui.t("settings.test_heavy" if row.heavy else f"settings.test_{row.tried}"),
        disabled=isinstance(outcome, Running) or not (row.models or model),
        on_click=probes().start,
        args=(row.name, settings.providers, model),
    )
    if isinstance(outcome, Running):
        st.fragment(watch_test, run_every=LOOK_SECONDS)(row.name)
    else:
        show_outcome(outcome)


def model_to_test(row: Row) -> str:
    label = ui.t("settings.folder_to_test") if row.heavy else ui.t("settings.model_to_test")
    return st.text_input(label, key=f"model_{row.name}").strip()


def watch_test(name: str) -> None:
    outcome = probes().result(name)
    if not isinstance(outcome, Running):
        st.rerun()
    elapsed = ui.clock(max(time.time() - outcome.since, 0))
    st.caption(f":material/hourglass_top: {ui.t('settings.asking', time=elapsed)}")


def show_outcome(outcome: Passed | Failed | None) -> None:
    match outcome:
        case Passed(trial=trial, at=at) if trial.seconds is None:
            st.caption(f":material/check: {ui.t('settings.looks_complete')} · {ui.ago(at)}")
        case Passed(trial=trial, at=at):
            took = ui.t("common.seconds", seconds=f"{trial.seconds:.2f}")
            said = ui.t("settings.answered", time=took, model=ui.plain(trial.model))
            st.caption(f":material/check: {said} · {ui.ago(at)}")
        case Failed(sentence=sentence):
            st.error(ui.plain(ui.t_said(sentence)), icon=":material/error:")


def show_in_force() -> None:
    st.header(ui.t("settings.in_force"), anchor=False)
    st.caption(ui.t("settings.in_force_hint"))
    grid = st.grid(3, min_column_width=260, gap=("small", "medium"), key="in_force")
    for setting in in_force(settings, os.environ):
        with grid.cell(), st.container(border=True, gap="xxsmall", height="stretch", key=f"setting_{setting.name}"):
            st.markdown(f"`{setting.name}` **{value_of(setting)}**")
            about = setting.name if setting.name in EXPLAINED else "other"
            st.caption(ui.t(f"settings.about_{about}"))
            source = source_of(setting)
            st.caption(source if setting.origin is Origin.DEFAULT else f"**{source}**")


def value_of(setting: InForce) -> str:
    if setting.value is None:
        return ui.t("settings.unset")
    if isinstance(setting.value, bool):
        return ui.t("settings.yes" if setting.value else "settings.no")
    return ui.plain(setting.value)


def source_of(setting: InForce) -> str:
    name = setting.name.upper() if setting.origin is Origin.ENVIRONMENT else setting.name
    return ui.plain(ui.t(f"settings.from_{setting.origin}", **({"name": name} if takes_name(setting) else {})))


def takes_name(setting: InForce) -> bool:
    return setting.origin in (Origin.COMMAND_LINE, Origin.ENVIRONMENT)


def show_checkpoints() -> None:
    st.header(ui.t("settings.checkpoints"), anchor=False)
    st.caption(ui.t("settings.checkpoints_hint", folder=ui.plain(str(checkpoint_folder(settings.data)))))
    for place, info in enumerate(ui.checkpoints(settings.data, settings.checkpoint)):
        with st.container(border=True, gap="xsmall", key=f"checkpoint_{place}"):
            show_checkpoint(info, place)


def show_checkpoint(info: CheckpointInfo, place: int) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"checkpoint_name_{place}"):
        st.subheader(ui.plain(info.name), anchor=False, width="content")
        if info.problems:
            count = len(info.problems)
            words = ui.t("settings.incomplete_one") if count == 1 else ui.t("settings.incomplete", count=count)
            st.badge(words, icon=":material/error:", color="red")
        elif info.components:
            st.badge(ui.t("settings.complete"), icon=":material/check:", color="green")
        else:
            st.badge(ui.t("settings.not_made_yet"), icon=":material/schedule:", color="gray")
    if info.playground:
        st.caption(ui.t("settings.playground_hint"))
    st.caption(ui.plain(str(info.path)))
    for problem in info.problems:
        st.error(ui.plain(ui.t_said(problem)), icon=":material/error:")
    if info.components:
        parameters = count_of(sum(component.parameters for component in info.components))
        amount = size(sum(component.bytes for component in info.components))
        st.caption(ui.t("settings.checkpoint_summary", parameters=parameters, bytes=amount))
        with st.expander(
            ui.t("settings.components", name=ui.plain(info.name)),
            icon=":material/account_tree:",
            key=f"components_{place}",
        ):
            show_components(info)


def show_components(info: CheckpointInfo) -> None:
    ok = ui.t("settings.component_ok")
    st.table(
        [
            {
                ui.t("settings.component"): f"`{component.name}`",
                ui.t("settings.size"): size_of(component),
                ui.t("settings.state"): ui.plain(ui.t_said(component.problem)) if component.problem else ok,
            }
            for component in info.components
        ],
        border="horizontal",
        hide_index=True,
        alt=ui.t("settings.components", name=info.name),
    )


def size_of(component: ComponentInfo) -> str:
    """Parameters, bytes and precision; the scheduler and the tokenizer have only bytes."""
    parameters = count_of(component.parameters) if component.parameters else ""
    return " · ".join(filter(None, (parameters, size(component.bytes), ", ".join(component.dtypes))))


def count_of(parameters: int) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= limit:
            return f"{parameters / limit:.1f} {letter}"
    return str(parameters)


def show_machine() -> None:
    found = machine(settings.data)
    rows = [
        (ui.t("settings.system"), found.system),
        (ui.t("settings.cores"), str(found.cores)),
        (ui.t("settings.memory"), free_of(found.memory_free, found.memory_total)),
    ]
    for index, gpu in enumerate(found.gpus):
        free, total = size(gpu.free), size(gpu.total)
        words = ui.t("settings.gpu_memory", name=gpu.name, free=free, total=total)
        rows.append((ui.t("settings.gpu", index=index), words))
    if not found.gpus:
        rows.append(("GPU", ui.t("settings.no_gpu")))
    rows.append((ui.t("settings.disk_free"), free_of(found.disk_free, found.disk_total)))
    st.header(ui.t("settings.machine"), anchor=False)
    cards.show_facts(rows, ui.t("settings.machine"))


def free_of(free: int | None, total: int | None) -> str:
    if total is None:
        return ui.t("settings.unknown")
    if free is None:
        return size(total)
    return ui.t("settings.free_of", free=size(free), total=size(total))


def show_disk() -> None:
    used = cards.usage()
    st.header(ui.t("settings.disk"), anchor=False)
    cards.show_facts(
        [(ui.t(f"settings.usage_{name}"), size(amount)) for name, amount in used.items()], ui.t("settings.disk")
    )
    if st.button(
        ui.t("settings.purge"), key="purge", icon=":material/delete_forever:", disabled=not used.get("deleted")
    ):
        ask_to_purge(used["deleted"])


@st.dialog(ui.t("settings.purge_title"), icon=":material/delete_forever:")
def ask_to_purge(amount: int) -> None:
    st.markdown(ui.t("settings.purge_warning", size=size(amount)))
    with st.container(horizontal=True, key="purge_answers"):
        if st.button(ui.t("settings.purge_confirm"), key="purge_confirm", type="primary", on_click=purge):
            st.rerun()
        if st.button(ui.t("settings.keep"), key="keep"):
            st.rerun()


def purge() -> None:
    store.purge(0)
    cards.forget_usage()


def show_worker() -> None:
    running, mode = is_running(store.data), store.mode()
    st.header(ui.t("settings.worker"), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="worker"):
        if running:
            st.badge(ui.t("settings.worker_running"), icon=":material/check:", color="green")
        else:
            st.badge(ui.t("settings.worker_absent"), icon=":material/power_off:", color="orange")
        st.caption(ui.t(f"queue.mode_{mode}") if running else ui.t("settings.worker_absent_hint"), width="content")
    said = store.worker() if running else None
    if said:
        st.caption(ui.t("settings.worker_loaded" if said.loaded else "settings.worker_free", pid=said.pid))
    if mode is Mode.PAUSED:
        st.button(ui.t("settings.resume"), key="resume", icon=":material/play_arrow:", on_click=store.resume)
    else:
        st.button(
            ui.t("settings.free_engine"),
            key="free_engine",
            icon=":material/memory:",
            help=ui.t("settings.free_engine_help"),
            on_click=store.pause_now,
        )
    lines = last_lines(store.data / "logs" / "worker.log", LOG_LINES)
    if not lines:
        st.caption(ui.t("settings.log_empty"))
        return
    with st.expander(ui.t("settings.log", count=len(lines.splitlines())), icon=":material/terminal:", key="worker_log"):
        st.code(lines, language=None, wrap_lines=True, height=400)


settings, store = ui.settings(), ui.store()
ui.tab_title(ui.t("nav.settings"))
st.title(ui.t("nav.settings"), anchor=False)
st.caption(ui.t("settings.about"))
show_providers()
serverdesk.show_servers()
plantable.show_plans(ui.checkpoints(settings.data, settings.checkpoint))
show_in_force()
left, right = st.columns(2, gap="large")
with left:
    show_checkpoints()
    show_worker()
with right:
    show_machine()
    show_disk()
