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

from app.desk import forget_upload, keep_picture, settings, store
from app.failures import refusal
from app.language import t, t_said
from app.store import StoreError
from mova.picture import PictureError, fit_picture, open_picture

PLACES = ("first_frame", "last_frame")

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
