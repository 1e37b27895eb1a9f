"""What a clip takes on this machine, drawn: the plan on Create, what each mode would take on Settings."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from app import plans
from app.desk import expected_seconds, page, settings, store
from app.form import OFFLOADS, PRESETS
from app.jobs import LOCAL, SGLANG, Brief, Offload, Preset
from app.language import clock, language, plain, roughly, t, took
from app.plans import How, Outlook
from app.texts import duration, size
from mova.layout import CheckpointInfo
from mova.plan import Card, DoesNotFit, Model, Phase, Plan, Reason, Resources
from mova.presets import missing, preset_named, sage_installed, unavailable
from mova.resources import try_disk

Outlooks = Mapping[Offload, Outlook]


def outlooks_of(brief: Brief) -> Outlooks:
    """How this machine would make it in each mode; empty where it won't, or where there are no weights to look at."""
    folder = settings().data / brief.checkpoint
    model = plans.model_of(folder) if brief.engine == LOCAL else None
    return planned(model, brief) if model else {}


def planned(model: Model, brief: Brief, patience: float = 0.0) -> Outlooks:
    """How this machine would make it of this model, in each mode."""
    found, measured = around(settings().data / brief.checkpoint, patience), store().measured_plans(brief)
    how = How(preset=brief.preset, device=settings().device, dtype=settings().dtype)
    each = {mode: plans.outlook(model, brief.spec, found, how._replace(offload=mode), measured) for mode in OFFLOADS}
    return {mode: outlook for mode, outlook in each.items() if outlook is not None}


def around(checkpoint: Path, patience: float = 0.0) -> Resources:
    """This machine, looked at every few seconds at most. ``patience``: seconds to wait for how fast the disk is."""
    said = store().worker()
    holds = said is not None and said.host == platform.node() and (said.loaded or said.job is not None)
    file = plans.largest_file(checkpoint)
    speed = _disk_speed(file, patience) if file else None
    return _around(checkpoint, settings().device, said.pid if said and holds else None, speed)


_around = st.cache_data(ttl="5s", show_spinner=False)(plans.resources_of)


def _disk_speed(file: Path, patience: float) -> float | None:
    """Bytes a second, once that has been tried beside the pages; None until then, and where it can't be told."""
    try:
        return _disk_trial(file).result(patience)
    except (TimeoutError, OSError):
        return None


@st.cache_resource
def _disk_trial(file: Path) -> Future[float | None]:
    pool = ThreadPoolExecutor(max_workers=1)
    trial = pool.submit(try_disk, file)
    pool.shutdown(wait=False)
    return trial


def show_plan(checkpoint: Path, engine: str, outlook: Outlook | None, others: Sequence[CheckpointInfo]) -> None:
    """How this machine would make the clip, as a card; of a server's, where it is made.

    Nothing before there are weights to look at. ``others`` are the checkpoints that there are.
    """
    if outlook is None and engine == LOCAL:
        return
    with st.container(border=True, gap="small", key="plan"):
        if outlook is None:
            name = engine.partition(":")[2]
            server = t("create.engine_server", name=name) if name else t("plan.any_server")
            st.caption(f":material/dns: {plain(t('plan.elsewhere', server=server))}")
        elif isinstance(outlook, DoesNotFit):
            _show_lack(outlook, others)
        else:
            _show_plan(outlook, around(checkpoint))


def time_in_words(brief: Brief, outlook: Outlook | None) -> str:
    """How long it takes, as far as that was measured; or else by the plan's estimate, which is called one."""
    if brief.engine != LOCAL or isinstance(outlook, DoesNotFit):
        return t("create.about_unknown")
    seconds = expected_seconds(brief, outlook)
    if seconds is not None:
        return t("create.about", time=clock(seconds))
    seconds = outlook.seconds if outlook else None
    return t("create.about_unknown") if seconds is None else t("create.about_estimated", time=roughly(seconds))


def time_of(plan: Plan) -> str:
    """How long it takes, measured or estimated, or that this isn't known."""
    seconds = plan.seconds
    if seconds is None:
        return t("plan.unknown")
    if plan.phase("denoising").measured:
        return t("plan.time_measured", time=clock(seconds))
    return t("plan.time_estimated", time=roughly(seconds))


def why_not_here(name: Preset, card: Card | None) -> plans.Why | None:
    """Why a preset isn't worth choosing on a machine with this card."""
    return unavailable(preset_named(name), card.capability if card else None, sage=sage_installed())


def choose_offload(checkpoint: Path, outlooks: Outlooks) -> None:
    """Where weights wait, with the modes that this machine has no room for."""
    gpu = around(checkpoint).card is not None
    lacks = {mode: each for mode, each in outlooks.items() if isinstance(each, DoesNotFit) and mode != "auto"}
    names = {mode: t(f"form.offload_{mode}") for mode in OFFLOADS}
    labels = {  # no figures: what is chosen comes back from the browser by its label
        mode: t("plan.option", choice=name, why=t(f"plan.short_{lacks[mode].memory}")) if mode in lacks else name
        for mode, name in names.items()
    }
    st.selectbox(
        t("create.offload"),
        OFFLOADS,
        format_func=labels.__getitem__,
        key="offload",
        help=t("create.offload_help"),
        disabled=not gpu,
    )
    if not gpu:
        st.caption(f":material/block: {t('create.offload_no_gpu')}")
        return
    for mode, lack in lacks.items():
        why = t(f"plan.short_{lack.memory}_by", missing=size(lack.missing))
        _blocked(t("plan.blocked", choice=names[mode], why=why))


def choose_preset(checkpoint: Path) -> None:
    """What is given up for memory and speed, what that changes, and what this machine can't do of it."""
    card = around(checkpoint).card
    here = {name: why_not_here(name, card) for name in PRESETS}
    names = {name: t(f"form.preset_{name}") for name in PRESETS}
    labels = {
        name: t("plan.option", choice=names[name], why=t("plan.not_here")) if here[name] else names[name]
        for name in PRESETS
    }
    st.selectbox(
        t("create.preset"),
        PRESETS,
        format_func=labels.__getitem__,
        key="preset",
        help=t("create.preset_help"),
    )
    chosen = preset_named(st.session_state.preset)
    if chosen.exact:
        st.caption(t("create.preset_exact"))
    lacks = missing(chosen, card.capability if card else None, sage=sage_installed())
    if said := [*map(_words, chosen.changes), *map(_words, lacks)]:
        st.caption(_list(said))
    for name, why in here.items():
        if why:
            _blocked(t("plan.blocked", choice=names[name], why=_words(why)))


def _blocked(words: str) -> None:
    st.caption(f":material/block: {plain(words)}")


def _list(sentences: Sequence[str]) -> str:
    """Small print, one below the other."""
    return "\n".join(f"- :small[{plain(sentence)}]" for sentence in sentences)


def _words(reason: plans.Why) -> str:
    return plans.reason_in_words(reason, language())


def _show_plan(plan: Plan, found: Resources) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="plan_title"):
        st.markdown(f"**{t('plan.title')}**", width="content")
        st.badge(t(f"plan.mode_{'cpu' if plan.device == 'cpu' else plan.offload}"), color="gray")
    card = found.card
    if card and plan.device != "cpu":
        st.caption(plain(t("plan.card", name=card.name, free=size(card.free), total=size(card.total))))
    st.markdown(plain(plans.in_words(plan, language())))
    facts = [(t("plan.ram"), size(plan.ram)), (t("plan.time"), time_of(plan))]
    if plan.device != "cpu":
        facts.insert(0, (t("plan.vram"), size(plan.vram)))
    with st.container(horizontal=True, gap="medium", key="plan_facts"):
        for label, value in facts:
            with st.container(gap=None, width="content", key=f"plan_fact_{label}"):
                st.caption(label)
                st.markdown(f"**{plain(value)}**")
    with st.expander(t("plan.details"), icon=":material/calculate:", key="plan_details"):
        _show_details(plan)


def _show_details(plan: Plan) -> None:
    measured = plan.phase("denoising").measured
    st.markdown(_list([_words(reason) for reason in plans.reasons_of(plan)]))
    known = "plan.measured" if measured else "plan.estimated"
    with_vram = plan.device != "cpu"
    st.table(
        [
            {
                t("plan.phase"): plans.phase_name(phase.name, language()),
                **({"VRAM": _unbroken(size(phase.vram))} if with_vram else {}),
                "RAM": _unbroken(size(phase.ram)),
                t("plan.time_known", known=t(known)): _unbroken(_time(phase)),
            }
            for phase in plan.phases
        ],
        border="horizontal",
        hide_index=True,
        alt=t("plan.title"),
    )
    if with_vram:
        largest = max(plan.phases, key=lambda phase: phase.vram)
        _show_terms("plan.terms", largest, largest.vram)
    else:
        largest = max(plan.phases, key=lambda phase: phase.ram)
        _show_terms("plan.terms_ram", largest, largest.ram)
    st.caption(t("plan.about_ram"))
    if not measured:
        st.caption(t("plan.about_estimates"))


def _show_terms(title: str, phase: Phase, total: int) -> None:
    """The arithmetic of a phase: what takes how much of these bytes; what isn't named is the program's own."""
    title = t(title, phase=plans.phase_name(phase.name, language()))
    st.markdown(f":small[**{plain(title)}**]")
    rest = total - sum(amount for _, amount in phase.terms)
    terms = (*phase.terms, ("program", rest)) if rest else phase.terms
    rows = [(plans.term_in_words(name, language()), size(amount)) for name, amount in terms]
    rows.append((f"**{t('plan.total')}**", f"**{size(total)}**"))
    st.table(
        [{"part": part, "size": amount} for part, amount in rows],
        border="horizontal",
        hide_index=True,
        hide_header=True,
        alt=title,
    )


def _unbroken(figure: str) -> str:
    """A figure that a narrow column leaves on one line."""
    return figure.replace(" ", "\u00a0")


def _time(phase: Phase) -> str:
    if phase.seconds is None:
        return t("plan.unknown")
    return took(phase.seconds) if phase.measured else roughly(phase.seconds)


def _show_lack(lack: DoesNotFit, checkpoints: Sequence[CheckpointInfo]) -> None:
    """By how much it doesn't fit, and what would: as buttons where the form can do it."""
    st.markdown(f"**{t('plan.title')}**")
    st.warning(plain(plans.lacking(lack, language())), icon=":material/memory_alt:")
    fits = [(reason, _fit(reason, checkpoints)) for reason in lack.remedies]
    st.caption(t("plan.would_fit"))
    with st.container(horizontal=True, gap="small", key="plan_remedies"):
        for reason, fit in fits:
            if fit:
                st.button(
                    fit.label,
                    key=f"fit_{reason.code}",
                    icon=f":material/{fit.icon}:",
                    on_click=st.session_state.update,
                    args=(fit.changes,),
                )
    if others := [_words(reason) for reason, fit in fits if not fit and reason.code != "remote"]:
        st.caption(_list(others))
    if not settings().sglang:
        st.page_link(page("settings"), label=t("plan.do_add_server"), icon=":material/dns:")


class _Fit(NamedTuple):
    """What makes a clip fit, as a button: what the form's fields become."""

    icon: str
    label: str
    changes: dict[str, Any]


def _fit(reason: Reason, checkpoints: Sequence[CheckpointInfo]) -> _Fit | None:
    """The button that does it; None where the form has none."""
    figures = dict(reason.figures)
    match reason.code:
        case "fewer-frames":
            seconds = duration(float(figures["seconds"]), language())
            label = t("plan.do_fewer_frames", num_frames=figures["num_frames"], seconds=seconds)
            return _Fit("timelapse", label, {"num_frames": figures["num_frames"]})
        case "other-mode":
            return _Fit("auto_mode", t("plan.do_other_mode"), figures)
        case "preset":
            return _Fit("compress", t("plan.do_preset", preset=t(f"form.preset_{figures['preset']}")), figures)
        case "smaller" if other := _of_size((figures["width"], figures["height"]), checkpoints):
            label = t("plan.do_smaller", checkpoint=plain(other.name))
            return _Fit("aspect_ratio", label, {"checkpoint": str(other.path)})
        case "remote" if settings().sglang:
            return _Fit("dns", t("plan.do_remote"), {"engine": SGLANG})
    return None


def _of_size(size: tuple[object, object], checkpoints: Sequence[CheckpointInfo]) -> CheckpointInfo | None:
    """A checkpoint that was made for that size."""
    usable = (info for info in checkpoints if not info.problems and not info.playground)
    return next((info for info in usable if size in info.sizes), None)
