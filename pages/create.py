"""Create: an idea, or a prompt and a first frame, becomes a clip."""

from typing import Any

import streamlit as st

from app import casting, frames, plandesk, serverdesk, sounddesk, ui
from app.checkpoints import checkpoint_folder, on_servers
from app.desk import put
from app.drafts import fitting
from app.form import (
    KEPT,
    LONGEST,
    LOUDNESS,
    MODES,
    MOST_TAKES,
    ORIENTATIONS,
    QUALITIES,
    Form,
    compose,
    length_of,
    level,
    size_of,
    steps_of,
    too_long,
)
from app.jobs import LOCAL, Brief
from app.texts import Language, text
from mova.layout import CheckpointInfo

t = ui.t
RECENT = 6
NOT_ON_SERVERS: dict[str, Any] = {  # field -> what stands for it where a server makes the clip
    "bridge_guidance_scale": 1.0,
    "video_shift": None,
    "audio_shift": None,
    "offload": "auto",
    "preset": "exact",
    "last_frame": None,
}
EXAMPLES = {  # field -> its text as the form starts
    "prompt": "create.example",
    "idea": "create.idea_example",
}
LEVELS = dict(zip(LOUDNESS, ("own", "web", "podcast", "broadcast"), strict=True))


def restore(found: dict[str, CheckpointInfo]) -> None:
    """Put the form's draft into the widgets: on a first visit, on coming back, and where another page filled it.

    Streamlit drops the value of a widget that a run didn't draw: a missing engine tells that another page was shown,
    and whatever else is missing now is filled in.
    """
    stale = st.session_state.pop("form_is_stale", False)
    draft = ui.store().form() if stale else st.session_state.get("draft") or ui.store().form()
    if not stale and "draft" in st.session_state and draft["checkpoint"] in found:
        came_back = "engine" not in st.session_state
        for name in draft.keys() if came_back else draft.keys() - st.session_state.keys():
            st.session_state[name] = draft[name]
        return
    chosen = draft.get("checkpoint")
    chosen = chosen if chosen in found else start_checkpoint(found)
    start = {"offload": settings.offload, "preset": settings.preset, "loudness": level(settings.loudness)}
    start |= {name: t(key) for name, key in EXAMPLES.items()}
    st.session_state.checkpoint = chosen
    checkpoint = found[chosen] if draft.get("engine", LOCAL) == LOCAL else on_servers(draft.get("model", ""))
    st.session_state.update(fitting(draft, checkpoint, start))
    st.session_state.draft = form_content()
    st.session_state.examples = EXAMPLES.keys() - draft.keys()


def form_content() -> dict[str, Any]:
    return {name: st.session_state[name] for name in ("checkpoint", *KEPT)}


def form_of(checkpoint: CheckpointInfo) -> Form:
    kept = {name: st.session_state[name] for name in KEPT}
    return Form(checkpoint, **(kept | NOT_ON_SERVERS if is_remote() else kept))


def is_remote() -> bool:
    return bool(st.session_state.engine != LOCAL)


def keep_draft() -> None:
    """Keep what the form holds, if that changed since it was last kept."""
    content = form_content()
    if content != st.session_state.draft:
        ui.store().keep_form(content)
        st.session_state.draft = content


def choose_checkpoint(found: dict[str, CheckpointInfo]) -> CheckpointInfo:
    if len(found) > 1:
        labels = labels_of(found)
        st.selectbox(
            t("create.checkpoint"),
            found,
            format_func=labels.__getitem__,
            key="checkpoint",
            on_change=lambda: st.session_state.update(seconds=length_of(found[st.session_state.checkpoint])),
        )
    return found[st.session_state.checkpoint]


def labels_of(found: dict[str, CheckpointInfo]) -> dict[str, str]:
    """A label of its own for each: two may bear one recorded name, and a label is what the browser sends back."""
    names = [info.name for info in found.values()]
    labels = {}
    for path, info in found.items():
        label = info.name if names.count(info.name) == 1 else f"{info.name} · {info.path}"
        labels[path] = t("create.not_usable", name=label) if info.problems else label
    return labels


def start_checkpoint(found: dict[str, CheckpointInfo]) -> str:
    """The path of the checkpoint to start with: the one that the settings name, else the first that can be used."""
    usable = (path for path, info in found.items() if settings.checkpoint or not info.problems)
    return next(usable, next(iter(found)))


def choose_mode() -> None:
    words = {mode: f":gray[{t(f'create.mode_{mode}')}]" for mode in MODES}
    st.segmented_control(
        t("create.mode"),
        words,
        format_func=words.__getitem__,
        key="mode",
        required=True,
        label_visibility="collapsed",
    )
    st.caption(t(f"create.mode_{st.session_state.mode}_means"))


def draw_words() -> None:
    """The idea, or the prompt."""
    for name in st.session_state.examples:  # the switch to another language takes them along
        if st.session_state[name] in [text(EXAMPLES[name], language) for language in Language]:
            put(name, t(EXAMPLES[name]))
    if st.session_state.mode == "full":
        st.text_area(
            t("create.idea"), key="idea", height=140, placeholder=t("create.idea_placeholder"), persist_state="session"
        )
        return
    st.text_area(
        t("create.prompt"),
        key="prompt",
        height=180,
        placeholder=t("create.prompt_placeholder"),
        persist_state="session",
    )
    if warning := too_long(st.session_state.prompt, ui.language()):
        st.caption(f":orange[:material/content_cut: {warning}]")


def draw_basics(checkpoint: CheckpointInfo) -> None:
    draw_words()
    shapes = {choice: f":gray[:material/crop_{choice}: {t(f'create.{choice}')}]" for choice in ORIENTATIONS}
    st.segmented_control(
        t("create.orientation"),
        shapes,
        format_func=shapes.__getitem__,
        key="orientation",
        required=True,
    )
    width, height = size_of(checkpoint, st.session_state.orientation)
    st.caption(t("create.pixels", width=width, height=height))
    frames.draw("first_frame", (width, height))
    if st.session_state.first_frame is None:
        if st.session_state.mode == "full":
            casting.show_painting(form_of(checkpoint))
        else:
            st.caption(t("create.text_only"))
    steps = {choice: f":gray[{t(f'create.{choice}')} · {steps_of(checkpoint, choice)}]" for choice in QUALITIES}
    st.segmented_control(
        t("create.quality"),
        steps,
        format_func=steps.__getitem__,
        key="quality",
        required=True,
        help=t("create.quality_help"),
    )
    overruled = st.session_state.steps is not None
    st.caption(t("create.overruled") if overruled else t(f"create.{st.session_state.quality}_means"))
    longest = t("create.seconds_help", longest=f"{LONGEST:g}")
    with st.grid(2, key="length_and_takes"):
        with st.container(key="length"):
            st.number_input(t("create.seconds"), 0.5, LONGEST, step=0.5, format="%.1f", key="seconds", help=longest)
            asked = form_of(checkpoint)
            st.caption(t("create.frames_are", frames=asked.frames, fps=f"{asked.frames_per_second:g}"))
        st.number_input(t("create.takes"), 1, MOST_TAKES, key="takes", help=t("create.takes_help"))


def draw_advanced(checkpoint: CheckpointInfo) -> None:
    own = t("create.own")
    with st.expander(t("create.advanced"), icon=":material/tune:", key="advanced"):
        with st.grid(2, key="numbers"):
            for key in ("guidance_scale", "bridge_guidance_scale"):
                if not draw_refused(key):
                    st.number_input(t(f"create.{key}"), step=0.5, format="%.1f", key=key, help=t(f"create.{key}_help"))
            st.text_input(t("create.seed"), key="seed", placeholder=t("create.random"), help=t("create.seed_help"))
            st.number_input(
                t("create.fps"), value=None, step=1.0, key="fps", placeholder=own, help=t("create.fps_help")
            )
            for key, otherwise in (("num_frames", t("create.from_length")), ("steps", t("create.from_quality"))):
                st.number_input(
                    t(f"create.{key}"),
                    value=None,
                    step=1,
                    key=key,
                    placeholder=otherwise,
                    help=t(f"create.{key}_help"),
                )
            for key in ("video_shift", "audio_shift"):
                if not draw_refused(key):
                    st.number_input(
                        t(f"create.{key}"), value=None, step=0.5, key=key, placeholder=own, help=t("create.shift_help")
                    )
        draw_machine(checkpoint)
        st.text_area(t("create.negative_prompt"), key="negative_prompt", help=t("create.negative_prompt_help"))
        if not draw_refused("last_frame"):
            frames.draw("last_frame", size_of(checkpoint, st.session_state.orientation))


def draw_refused(key: str) -> bool:
    """Where a server makes the clip, the field that it can't follow, with the reason; whether it was that."""
    if not is_remote():
        return False
    shown = NOT_ON_SERVERS.get(key, 0)
    if shown == 0:
        return False
    with st.container(gap="xxsmall", key=f"{key}_refused"):
        words = t(f"form.{key}_{shown}") if isinstance(shown, str) else "" if shown is None else f"{shown:g}"
        st.text_input(t(f"create.{key}"), words, placeholder="–", disabled=True, key=f"{key}_on_servers")
        st.caption(f":material/block: {t(f'create.{key}_refused')}")
    return True


def draw_machine(checkpoint: CheckpointInfo) -> None:
    """Where and how the clip is made, and how loud it is in the end."""
    if not settings.sglang:
        serverdesk.choose_engine()
    if not draw_refused("offload"):
        plandesk.choose_offload(checkpoint.path, outlooks(form_of(checkpoint)))
    if not draw_refused("preset"):
        plandesk.choose_preset(checkpoint.path)
    levels = {loudness: level_text(loudness) for loudness in (*LOUDNESS, st.session_state.loudness)}
    st.selectbox(
        t("create.loudness"),
        levels,
        format_func=levels.__getitem__,
        key="loudness",
        help=t("create.loudness_help"),
    )


def brief_of(form: Form) -> Brief | list[str]:
    return compose(form, data=settings.data, language=ui.language(), endpoints=settings.providers)


def outlooks(form: Form) -> plandesk.Outlooks:
    brief = brief_of(form)
    return plandesk.outlooks_of(brief) if isinstance(brief, Brief) else {}


def level_text(loudness: str) -> str:
    if loudness in LEVELS:
        return t(f"create.loudness_{LEVELS[loudness]}")
    return t("create.loudness_set", lufs=loudness.replace("-", "−"))


def submit(brief: Brief) -> None:
    takes = st.session_state.takes
    with ui.told():
        job = ui.store().submit(brief, takes=takes)
        st.session_state.queued = takes  # said by the next lines that are drawn: a dialog's callback draws nothing well
        ui.open_job(job.id)


def ask_about_no_prompt(brief: Brief) -> None:
    @st.dialog(t("create.no_idea_title" if brief.full else "create.no_prompt_title"), icon=":material/chat_bubble:")
    def ask() -> None:
        by_frame = t("create.no_idea_frame") if brief.full else t("create.no_prompt_frame")
        st.markdown(by_frame if brief.first_frame else t("create.no_prompt_nothing"))
        if st.button(
            t("create.generate_anyway"), key="generate_anyway", type="primary", on_click=submit, args=(brief,)
        ):
            st.rerun()

    ask()


def mode_words() -> str:
    """The field of the mode in force that says what is wanted."""
    return "idea" if st.session_state.mode == "full" else "prompt"


def ask_to_start_over() -> None:
    @st.dialog(t("create.start_over_title"), icon=":material/restart_alt:")
    def ask() -> None:
        st.markdown(t("create.start_over_warning"))
        with st.container(horizontal=True, key="start_over_answers"):
            st.button(
                t("create.start_over"),
                key="start_over_now",
                type="primary",
                on_click=lambda: ui.fill_form({"mode": st.session_state.mode}),
            )
            if st.button(t("create.start_over_keep"), key="start_over_keep"):
                st.rerun()

    ask()


def draw_generate(brief: Brief | list[str], problems: list[str], outlook: plandesk.Outlook | None) -> None:
    clicked = st.button(
        t("create.generate"), key="generate", type="primary", icon=":material/play_arrow:", width="stretch"
    )
    if isinstance(brief, list):
        for sentence in brief:
            st.error(ui.plain(sentence), icon=":material/error:")
        return
    takes, numbers = st.session_state.takes, ui.summary(brief)
    time = plandesk.time_in_words(brief, outlook)
    all_takes = numbers if takes == 1 else t("create.takes_are", takes=takes, summary=numbers)
    lines = [all_takes, time]
    if brief.full and takes > 1:
        lines.append(t("create.agents_each"))
    st.caption("  \n".join(lines), text_alignment="center")
    if clicked and problems:
        for sentence in problems:
            st.error(ui.plain(sentence), icon=":material/broken_image:")
    elif clicked:
        if brief.prompt.strip():
            submit(brief)
        else:
            ask_about_no_prompt(brief)
    if st.session_state.pop("filled", False):
        st.caption(f":material/check: {t('create.filled')}", text_alignment="center")
    if queued := st.session_state.pop("queued", 0):
        said = t("create.queued_one") if queued == 1 else t("create.queued", takes=queued)
        st.caption(f":material/check: {said}", text_alignment="center")


settings = ui.settings()
checkpoints = {str(info.path): info for info in ui.checkpoints(settings.data, settings.checkpoint)}
restore(checkpoints)

with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute", key="heading"):
    st.title(t("create.title"), anchor=False, width="content")
    if st.button(
        t("create.start_over"),
        key="start_over",
        icon=":material/restart_alt:",
        type="tertiary",
        help=t("create.start_over_help"),
    ):
        ask_to_start_over()
st.caption(t("create.subtitle"))
banner = st.container()
making, watching = st.columns([5, 6], gap="large")

with making:
    choose_mode()
    if settings.sglang:
        serverdesk.choose_engine()
    elif is_remote():  # its server was taken out of the settings
        put("engine", LOCAL)
    if is_remote():
        checkpoint = on_servers(serverdesk.choose_model(st.session_state.engine))
    else:
        checkpoint = choose_checkpoint(checkpoints)
    draw_basics(checkpoint)
    form = form_of(checkpoint)
    if form.mode == "full":
        sounddesk.show_sound_desk(form)
        casting.show_casting(form)
    draw_advanced(checkpoint)
    form = form_of(checkpoint)
    places = frames.PLACES[:1] if is_remote() else frames.PLACES
    seen = [frames.as_seen(place, size_of(checkpoint, form.orientation)) for place in places]
    outlook = outlooks(form).get(form.offload)
    plandesk.show_plan(checkpoint.path, form.engine, outlook, list(checkpoints.values()))
    draw_generate(brief_of(form), [frame.problem for frame in seen if frame.problem], outlook)
    frames.watch_for_paste("first_frame")
with ui.told():
    keep_draft()

if checkpoint.playground and not is_remote():
    ui.show_playground_banner(banner, checkpoint_folder(settings.data))

with watching:
    if job_id := st.query_params.get("job"):
        ui.show_job(job_id)
    else:
        ui.show_nothing_yet(example=st.session_state[mode_words()] == t(EXAMPLES[mode_words()]))
    ui.show_recent(RECENT, but=job_id)
