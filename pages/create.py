"""Create: a prompt and a first frame become a clip."""

from dataclasses import fields

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app import ui
from app.checkpoints import checkpoint_folder
from app.form import LONGEST, ORIENTATIONS, QUALITIES, WAITING, Form, compose, size_of, steps_of, too_long
from app.jobs import Brief
from mova.layout import CheckpointInfo
from mova.spec import NEGATIVE_PROMPT

EXAMPLE = (
    "A lighthouse stands on a rocky cape at dusk. Its lamp turns and sweeps a warm beam over the dark sea while waves "
    "break against the rocks. The camera moves slowly closer.\n\n"
    "The sound of heavy waves and wind; a foghorn calls twice from far away. No music."
)
PICTURES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"]
RECENT = 6
HELP = {
    "quality": "The number is that of denoising steps; time grows with it. Draft: is the idea right? "
    "Standard: little is lost. Fine: as the model was evaluated.",
    "seconds": f"The model was trained on clips of up to {LONGEST:g} s. Frames, under Advanced, goes beyond.",
    "first_frame": "The clip starts from this picture. Its middle is used, in the orientation above.",
    "last_frame": "The clip ends with this picture.",
    "guidance_scale": "How closely the clip follows the prompt. 1 is off, and twice as fast.",
    "bridge_guidance_scale": "How closely sound and picture follow each other. 1 is off; 3.5 buys lip sync, for time "
    "and some clearness of speech.",
    "seed": "The same seed with the same settings gives the same clip.",
    "fps": "The checkpoint's own unless given.",
    "num_frames": "Overrules the length: 4n + 1 frames.",
    "steps": "Overrules the quality.",
    "shift": "More than the checkpoint's own spends more of the steps on the large shapes.",
    "offload": "Away from the device they leave room on it, and take more time. The clip stays the same.",
    "negative_prompt": "What the clip is kept away from; the default is what the released model was evaluated with.",
}
TYPED = [field.name for field in fields(Form) if field.name != "checkpoint"]  # each the key of a widget


def start_with(checkpoint: CheckpointInfo) -> None:
    st.session_state.seconds = min(round(checkpoint.default_spec.duration * 2) / 2, LONGEST)


def choose_checkpoint() -> CheckpointInfo:
    found = {str(info.path): info for info in ui.checkpoints(settings.data, settings.checkpoint)}
    if st.session_state.get("checkpoint") not in found:
        st.session_state.checkpoint = next(iter(found))
        start_with(found[st.session_state.checkpoint])
    if len(found) > 1:
        st.selectbox(
            "Checkpoint",
            found,
            format_func=lambda path: found[path].name,
            key="checkpoint",
            on_change=lambda: start_with(found[st.session_state.checkpoint]),
        )
    return found[st.session_state.checkpoint]


def draw_basics(checkpoint: CheckpointInfo) -> ui.Frame:
    st.text_area("Prompt", key="prompt", height=180, placeholder="What is to be seen, and what is to be heard?")
    if warning := too_long(st.session_state.prompt):
        st.caption(f":orange[:material/content_cut: {warning}]")
    st.segmented_control(
        "Orientation",
        ORIENTATIONS,
        format_func=lambda choice: f":gray[:material/crop_{choice}: {choice.capitalize()}]",
        key="orientation",
        required=True,
    )
    first = draw_frame("First frame", "first_frame", checkpoint)
    if first.upload is None:
        st.caption("None: text only. The model then starts from a white picture.")
    st.segmented_control(
        "Quality",
        QUALITIES,
        format_func=lambda choice: f":gray[{choice.capitalize()} · {steps_of(checkpoint, choice)}]",
        key="quality",
        required=True,
        help=HELP["quality"],
    )
    st.number_input("Length in seconds", 0.5, LONGEST, step=0.5, format="%.1f", key="seconds", help=HELP["seconds"])
    return first


def draw_advanced(checkpoint: CheckpointInfo) -> ui.Frame:
    own = "The checkpoint's own"
    with st.expander("Advanced", icon=":material/tune:", key="advanced"):
        with st.grid(2, key="numbers"):
            for label, key in (("Guidance", "guidance_scale"), ("Bridge guidance", "bridge_guidance_scale")):
                st.number_input(label, step=0.5, format="%.1f", key=key, help=HELP[key])
            st.text_input("Seed", key="seed", placeholder="Random", help=HELP["seed"])
            st.number_input("Frames per second", value=None, step=1.0, key="fps", placeholder=own, help=HELP["fps"])
            for label, key, otherwise in (
                ("Frames", "num_frames", "From the length"),
                ("Steps", "steps", "From the quality"),
            ):
                st.number_input(label, value=None, step=1, key=key, placeholder=otherwise, help=HELP[key])
            for label, key in (("Video shift", "video_shift"), ("Audio shift", "audio_shift")):
                st.number_input(label, value=None, step=0.5, key=key, placeholder=own, help=HELP["shift"])
        st.selectbox("The weights wait", WAITING, format_func=WAITING.__getitem__, key="offload", help=HELP["offload"])
        st.text_area("Negative prompt", key="negative_prompt", help=HELP["negative_prompt"])
        return draw_frame("Last frame", "last_frame", checkpoint)


def draw_frame(label: str, key: str, checkpoint: CheckpointInfo) -> ui.Frame:
    upload = st.file_uploader(label, type=PICTURES, key=key, help=HELP[key])
    width, height = size_of(checkpoint, st.session_state.orientation)
    frame = ui.as_seen(upload, width, height)
    if frame.problem:
        st.error(ui.plain(frame.problem), icon=":material/broken_image:")
    elif frame.preview:
        st.image(
            frame.preview, width="stretch" if width > height else 240, alt=f"{label}, cropped to {width} by {height}"
        )
        st.caption(f"Cropped to {width} × {height}: just what the model will see.")
    return frame


def submit(brief: Brief, first: UploadedFile | None, last: UploadedFile | None) -> None:
    job = ui.store().submit(
        brief,
        first_frame=first.getvalue() if first else None,
        last_frame=last.getvalue() if last else None,
    )
    ui.open_job(job.id)


@st.dialog("Generate without a prompt?", icon=":material/chat_bubble:")
def ask_about_no_prompt(brief: Brief, first: UploadedFile | None, last: UploadedFile | None) -> None:
    st.markdown(
        "Nothing says what is to be seen and heard. The model will go by the first frame alone."
        if first
        else "Nothing says what is to be seen and heard, and there is no first frame either: anything may come."
    )
    if st.button("Generate anyway", key="generate_anyway", type="primary", on_click=submit, args=(brief, first, last)):
        st.rerun()


settings = ui.settings()
for name, start in {
    "prompt": EXAMPLE,
    "orientation": "landscape",
    "quality": "standard",
    "guidance_scale": 5.0,
    "bridge_guidance_scale": 1.0,
    "negative_prompt": NEGATIVE_PROMPT,
    "offload": settings.offload,
}.items():
    st.session_state.setdefault(name, start)

st.title("Create", anchor=False)
st.caption("A prompt and a first frame become a clip: picture and sound, made together.")
banner = st.container()
making, watching = st.columns([5, 6], gap="large")

with making:
    checkpoint = choose_checkpoint()
    first = draw_basics(checkpoint)
    last = draw_advanced(checkpoint)
    brief = compose(
        Form(checkpoint, **{name: st.session_state[name] for name in TYPED}),
        data=settings.data,
        loudness=settings.loudness,
    )
    clicked = st.button("Generate", key="generate", type="primary", icon=":material/play_arrow:", width="stretch")
    if isinstance(brief, list):
        for sentence in brief:
            st.error(ui.plain(sentence), icon=":material/error:")
    else:
        st.caption(ui.summary(brief), text_alignment="center")
        if clicked and not (first.problem or last.problem):
            if brief.prompt.strip():
                submit(brief, first.upload, last.upload)
            else:
                ask_about_no_prompt(brief, first.upload, last.upload)

if checkpoint.playground:
    ui.show_playground_banner(banner, checkpoint_folder(settings.data))

with watching:
    if job_id := st.query_params.get("job"):
        ui.show_job(job_id)
    else:
        ui.show_nothing_yet()
    ui.show_recent(RECENT)
