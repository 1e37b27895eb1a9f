"""The frames of the Create form: taken in, kept with the form's draft, and shown as the model will see them."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import streamlit as st
from PIL import Image

from app.desk import forget_upload, keep_picture, media_url, settings, store, use_frame
from app.failures import refusal
from app.jobs import Status, Wanted
from app.language import plain, shorten, t, t_said
from app.store import StoreError
from app.workflow import POSTER
from mova.picture import PictureError, fit_picture, open_picture

PLACES = ("first_frame", "last_frame")
PICTURES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"]
CLIPS_TO_CHOOSE_FROM = 6

Axis = Literal["across", "down"]

# Streamlit's own uploader takes dropped files, but none that are pasted. The page has nowhere else for a picture to go.
_PASTE = """
export default function (component) {
  const take = async (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith("image/"));
    if (!file || file.size > component.data.most) return;
    event.preventDefault();
    const reader = new FileReader();
    reader.onload = () => component.setTriggerValue("picture", reader.result.split(",")[1]);
    reader.readAsDataURL(file);
  };
  document.addEventListener("paste", take);
  component.parentElement.__forget?.();
  component.parentElement.__forget = () => document.removeEventListener("paste", take);
  return () => component.parentElement.__forget?.();
}
"""
MOST_BYTES = 50_000_000  # of a pasted picture, as of an uploaded one
_paste = st.components.v2.component("paste_picture", js=_PASTE)


@dataclass(frozen=True)
class Seen:
    """A frame as the model will see it, and the axis along which its crop may be moved; or what is wrong with it."""

    preview: bytes | None = None
    axis: Axis | None = None
    problem: str | None = None


def draw(place: str, size: tuple[int, int]) -> None:
    """A frame's upload field; or, once there is one, the frame as the model will see it, and where it is cropped."""
    seen = as_seen(place, size)
    if st.session_state[place] is None:
        _draw_upload(place)
    else:
        _draw_seen(place, seen, size)
    if seen.problem:
        st.error(plain(seen.problem), icon=":material/broken_image:")


def watch_for_paste(place: str) -> None:
    """Take a picture that is pasted anywhere on the page as this frame."""
    _paste(key="paste", data={"most": MOST_BYTES}, height=1, on_picture_change=lambda: _take_pasted(place))


def take_upload(place: str, widget: str) -> None:
    """Keep what the upload field of that key holds as this frame."""
    st.session_state.pop(f"{place}_problem", None)
    if upload := st.session_state.get(widget):
        take(place, upload.getvalue())


def take(place: str, picture: bytes) -> None:
    """Keep a picture as this frame of the form, or remember the sentence that says why that can't be."""
    try:
        kept = keep_picture(place, picture)
    except (PictureError, StoreError, OSError) as error:
        st.session_state[f"{place}_problem"] = refusal(error)
        return
    if st.session_state.get(place) != kept:
        drop(place)
    st.session_state[place] = kept
    st.session_state[f"{place}_position"] = 50


def drop(place: str) -> None:
    """Forget this frame of the form."""
    if path := st.session_state.get(place):
        store().drop_upload(Path(path).name)
    st.session_state[place] = None
    forget_upload(place)


def as_seen(place: str, size: tuple[int, int]) -> Seen:
    """This frame of the form."""
    path = st.session_state.get(place)
    if path is None:
        return Seen(problem=st.session_state.get(f"{place}_problem"))
    file: Path = settings().data / path
    if not file.is_file():
        return Seen(problem=t("create.frame_gone"))
    seen = _seen(file, size, int(st.session_state.get(f"{place}_position", 50)))
    return replace(seen, problem=t_said(seen.problem)) if seen.problem else seen


def _draw_upload(place: str) -> None:
    widget = f"{place}_upload_{st.session_state.get(f'{place}_turn', 0)}"
    st.file_uploader(
        t(f"create.{place}"),
        type=PICTURES,
        key=widget,
        help=t(f"create.{place}_help"),
        on_change=take_upload,
        args=(place, widget),
    )
    _draw_clips_to_choose_from(place)


def _draw_clips_to_choose_from(place: str) -> None:
    clips = store().find(Wanted(states=(Status.DONE,)), per_page=CLIPS_TO_CHOOSE_FROM).jobs
    if not clips:
        return
    with st.popover(
        t("create.from_clip"), icon=":material/movie:", help=t("create.from_clip_help"), key=f"{place}_clips"
    ):
        for job in clips:
            with st.container(horizontal=True, vertical_alignment="center", key=f"{place}_{job.id}"):
                st.image(media_url(job, POSTER), width=112, alt=shorten(job.brief.prompt, 80))
                for which in ("first", "last"):
                    st.button(
                        t(f"create.its_{which}"),
                        key=f"{place}_{which}_{job.id}",
                        on_click=use_frame,
                        args=(job, which, place),
                    )


def _draw_seen(place: str, seen: Seen, size: tuple[int, int]) -> None:
    width, height = size
    name = t(f"create.{place}")
    with st.container(border=True, key=f"{place}_seen"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"**{name}**", width="content")
            st.button(
                t("create.remove"),
                key=f"{place}_remove",
                icon=":material/close:",
                type="tertiary",
                help=t("create.remove_help"),
                on_click=drop,
                args=(place,),
            )
        if seen.preview:
            alt = t("create.cropped_alt", frame=name, width=width, height=height)
            st.image(seen.preview, width="stretch" if width > height else 240, alt=alt)
            st.caption(t("create.cropped", width=width, height=height))
        if seen.axis:
            # Gray, as the primary colour that Streamlit writes it in is too faint on the dark ground.
            st.slider(
                t(f"create.{seen.axis}"),
                0,
                100,
                format=":gray[%d %%]",
                key=f"{place}_position",
                persist_state="session",
            )


@st.cache_data(max_entries=32, show_spinner=False)
def _seen(file: Path, size: tuple[int, int], percent: int) -> Seen:
    width, height = size
    try:
        image = open_picture(file)
    except PictureError as error:
        return Seen(problem=str(error))
    preview = io.BytesIO()
    fit_picture(image, height, width, position=(percent / 100, percent / 100)).save(preview, "WEBP", quality=90)
    return Seen(preview.getvalue(), _axis(image, width, height))


def _axis(image: Image.Image, width: int, height: int) -> Axis | None:
    """The axis on which something is cut away; a pixel's worth counts as none."""
    across, down = image.width * height, image.height * width
    if abs(across - down) < max(width, height):
        return None
    return "across" if across > down else "down"


def _take_pasted(place: str) -> None:
    pasted = getattr(st.session_state.get("paste"), "picture", None)
    if not isinstance(pasted, str):
        return
    try:
        take(place, base64.b64decode(pasted, validate=True))
    except binascii.Error:
        return
