"""Who does what, on the Create form: the models of the agents' steps, and after which of them the creator looks on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from agents.addresses import is_here
from agents.models import Ability, address_of, problem, provider_of, split
from app import agency
from app.desk import page, put, settings
from app.form import MOST_CANDIDATES, Form
from app.jobs import Step
from app.language import plain, t, t_said


def show_painting(form: Form) -> None:
    """What is done about a first frame that isn't given: painted, how many to choose from, or white."""
    words = {True: t("create.painted"), False: t("create.white")}
    st.segmented_control(
        t("create.painting"), words, format_func=_gray(words), key="painted", required=True, persist_state="session"
    )
    st.caption(t("create.painted_means") if form.painted else t("create.text_only"))
    if not form.painted:
        return
    st.segmented_control(
        t("create.candidates"),
        range(1, MOST_CANDIDATES + 1),
        format_func=lambda number: f":gray[{number}]",
        key="candidates",
        required=True,
        persist_state="session",
        help=t("create.candidates_help"),
    )
    if form.candidates > 1:
        st.caption(f":material/rate_review: {t('create.candidates_wait', count=form.candidates)}")


def show_casting(form: Form) -> None:
    """A model for each step that this clip goes through, folded, and where the creator looks on."""
    endpoints = settings().providers
    choices, unable = form.choices(endpoints), form.unable(endpoints)
    icon = ":material/warning:" if unable else ":material/groups:"
    with st.expander(_label(form, choices, bool(unable)), icon=icon, key="casting"):
        for step, choice in choices.items():
            _choose(step, choice)
            if step in unable:
                st.markdown(f":small[:red[:material/error: {plain(t_said(unable[step]))}]]")
        for sentence in _what_leaves(choices, unable):
            st.caption(f":material/cloud_upload: {plain(sentence)}")
        if any(_is_builtin(choice) for choice in choices.values()):
            st.caption(f":material/info: {t('create.builtin_means')}")
        st.page_link(page("settings"), label=t("create.set_up_models"), icon=":material/settings:")
        _choose_review(form)


def _label(form: Form, choices: Mapping[Step, str], amiss: bool) -> str:
    titles = dict.fromkeys(_title(choice) for choice in choices.values())
    parts = [t("form.comma").join(titles)]
    if amiss:
        parts.append(t("create.cast_amiss"))
    if form.waits:
        parts.append(t("create.cast_waits"))
    return t("create.casting", state=plain(" · ".join(parts)))


def _choose(step: Step, choice: str) -> None:
    endpoints, ability = settings().providers, agency.ABILITIES[step]

    def words(offered: str) -> str:
        if _is_builtin(offered):
            return t("create.builtin_choice")
        return t("create.not_set_up", choice=offered) if problem(offered, ability, endpoints) else offered

    labels = {offered: words(offered) for offered in agency.offered(step, endpoints)}
    labels.setdefault(choice, choice)
    put(f"model_{step}", choice)
    st.selectbox(
        t(f"form.step_{step}"),
        labels,
        format_func=lambda offered: labels.get(offered, offered),
        key=f"model_{step}",
        accept_new_options=True,
        help=t(f"create.step_{step}_help") + "  \n" + t("create.any_model"),
        on_change=_take,
        args=(step,),
    )


def _take(step: Step) -> None:
    """Keep a choice, or that it is the usual one: so it is of whatever is set up later."""
    chosen = (st.session_state[f"model_{step}"] or "").strip()
    usual = agency.usual(step, settings().providers)
    st.session_state.models = {**st.session_state.models, step: "" if chosen == usual else chosen}


def _choose_review(form: Form) -> None:
    words = {False: t("create.auto"), True: t("create.review")}
    st.segmented_control(
        t("create.between"), words, format_func=_gray(words), key="review", required=True, persist_state="session"
    )
    if not form.review:
        st.caption(t("create.auto_waits") if form.waits else t("create.auto_means"))
        return
    steps = [step for step in form.agent_steps if step is not Step.FIRST_FRAME or form.candidates == 1]
    names = {step: f":gray[{t(f'form.step_{step}')}]" for step in steps}
    put("review_after", [step for step in form.review_steps if step in steps])
    st.pills(
        t("create.review_after"),
        names,
        selection_mode="multi",
        format_func=names.__getitem__,
        key="review_after",
        on_change=_take_review,
        args=(steps,),
    )
    st.caption(t("create.review_means") if form.waits else t("create.review_nowhere"))


def _take_review(steps: list[Step]) -> None:
    others = [step for step in st.session_state.review_steps if step not in steps]
    ticked = [*others, *st.session_state.review_after]
    st.session_state.review_steps = [step for step in Step if step in ticked]


def _what_leaves(choices: Mapping[Step, str], unable: Mapping[Step, str]) -> list[str]:
    """What of the creator's goes to which endpoint beyond this machine, a sentence each."""
    sent: dict[str, set[str]] = {}
    for step, choice in choices.items():
        if step not in unable and _is_far(choice):
            what = "frame" if agency.ABILITIES[step] is Ability.VISION else "idea"
            sent.setdefault(_title(choice), set()).add(what)
    return [
        t("create.leaves_" + ("both" if len(what) > 1 else next(iter(what))), endpoint=title)
        for title, what in sent.items()
    ]


def _is_far(choice: str) -> bool:
    address = address_of(split(choice)[0], settings().providers)
    provider = provider_of(address)
    return provider is not None and provider.remote and not is_here(address)


def _is_builtin(choice: str) -> bool:
    return split(choice)[0] == agency.BUILTIN


def _title(choice: str) -> str:
    address = address_of(split(choice)[0], settings().providers)
    within = {"builtin": t("create.builtin_choice"), "local": t("create.engine_local")}
    return within.get(address.provider, address.title)


def _gray(words: Mapping[bool, str]) -> Callable[[bool], str]:
    return lambda choice: f":gray[{words[choice]}]"
