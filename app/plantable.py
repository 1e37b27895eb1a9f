"""What clips would take on this machine, mode by mode: the table on Settings, and what each preset changes."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import plans
from app.checkpoints import checkpoint_folder
from app.desk import settings, store
from app.form import OFFLOADS, PRESETS
from app.jobs import Brief, Offload, Preset
from app.language import language, plain, t
from app.plandesk import Outlooks, around, planned, time_of, why_not_here
from app.plans import Outlook
from app.texts import size
from mova.layout import SIZES_360P, SIZES_720P, CheckpointInfo
from mova.plan import Card, DoesNotFit, Model
from mova.presets import missing, preset_named, sage_installed
from mova.released import RELEASED_360P

DISK_SECONDS = 1.0  # for a first try of the disk


def show_plans(checkpoints: Sequence[CheckpointInfo]) -> None:
    """For each size of the checkpoint that clips are made by: what each mode takes, and what *auto* comes to."""
    st.header(t("settings.plans"), anchor=False)
    info, model = _shown(checkpoints)
    spec = info.default_spec
    hint = "settings.plans_hint" if info.components else "settings.plans_hint_absent"
    st.caption(plain(t(hint, name=info.name, frames=spec.num_frames, steps=spec.num_inference_steps)))
    for width, height in (SIZES_360P[0], SIZES_720P[0]):
        sized = spec.model_copy(update={"width": width, "height": height})
        brief = Brief(prompt="", checkpoint=str(info.path), spec=sized, preset=settings().preset)
        _show_size(f"{width} × {height}", planned(model, brief, DISK_SECONDS))
    _show_attention()
    with st.expander(t("settings.presets"), icon=":material/speed:", key="presets"):
        _show_presets(info)


def _shown(checkpoints: Sequence[CheckpointInfo]) -> tuple[CheckpointInfo, Model]:
    """The first real checkpoint that can be used; or, before there is one, the one that can be had."""
    for info in checkpoints:
        model = None if info.playground or info.problems else plans.model_of(info.path)
        if model is not None:
            return info, model
    return CheckpointInfo(checkpoint_folder(settings().data), RELEASED_360P.name, (), ()), RELEASED_360P


def _show_size(title: str, outlooks: Outlooks) -> None:
    auto = outlooks["auto"]
    st.table(
        [{t("settings.plan_of", size=title): name, **_figures(outlooks[mode])} for mode, name in _names(auto).items()],
        border="horizontal",
        hide_index=True,
        alt=t("settings.plan_of", size=title),
    )
    begin = [t("plan.would_fit")] if isinstance(auto, DoesNotFit) else []
    reasons = auto.remedies if isinstance(auto, DoesNotFit) else plans.reasons_of(auto)
    lines = begin + [plans.reason_in_words(reason, language()) for reason in reasons]
    st.caption("  \n".join(map(plain, lines)))


def _names(auto: Outlook) -> dict[Offload, str]:
    """What the rows are called; of *auto* also what it comes to. On a CPU all modes are the same."""
    names: dict[Offload, str] = {mode: t(f"plan.mode_{mode}") for mode in OFFLOADS}
    if isinstance(auto, DoesNotFit):
        return names
    if auto.device == "cpu":
        return {"auto": t("plan.mode_cpu")}
    return names | {"auto": t("plan.mode_auto_is", mode=t(f"plan.mode_{auto.offload}"))}


def _figures(outlook: Outlook) -> dict[str, str]:
    """A row's VRAM, RAM and time; or what is missing."""
    if isinstance(outlook, DoesNotFit):
        short = t("plan.too_little", missing=size(outlook.missing))
        values = {"vram": "–", "ram": "–", "time": t("plan.does_not_fit")} | {outlook.memory: short}
    else:
        vram = "–" if outlook.device == "cpu" else size(outlook.vram)
        values = {"vram": vram, "ram": size(outlook.ram), "time": time_of(outlook)}
    return {t(f"plan.{name}"): plain(value) for name, value in values.items()}


def _show_attention() -> None:
    kernel = store().last_attention()
    if kernel:
        st.caption(t("settings.attention", kernel=plain(plans.kernel_name(kernel))))
    else:
        st.caption(t("settings.attention_unknown"))


def _show_presets(info: CheckpointInfo) -> None:
    card = around(info.path).card
    for name in PRESETS:
        _show_preset(name, card)


def _show_preset(name: Preset, card: Card | None) -> None:
    """What it changes, and what of it this machine can't do."""
    preset, lack = preset_named(name), why_not_here(name, card)
    st.markdown(f"**{plain(t(f'form.preset_{name}'))}**")
    changes = [plans.reason_in_words(note, language()) for note in preset.changes]
    st.caption(plain(" ".join(changes)) or t("create.preset_exact"))
    lacks = [lack] if lack else missing(preset, card.capability if card else None, sage=sage_installed())
    for note in lacks:
        st.caption(f":material/block: {plain(plans.reason_in_words(note, language()))}")
