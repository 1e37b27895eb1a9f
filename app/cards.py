"""How the Queue, the Gallery and a clip's page draw a job: its title, its poster, its facts."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urljoin

import streamlit as st

from app import ui
from app.jobs import Job
from app.store import JobStore
from app.workflow import POSTER

LONGEST_WORD = 16
_SENTENCE = re.compile(r".+?(?:[.!?…](?=\s)|[。！？]|\n|$)", re.DOTALL)
_STAR = "M12 3l2.8 6 6.5.7-4.9 4.4 1.4 6.4-5.8-3.3-5.8 3.3 1.4-6.4-4.9-4.4 6.5-.7z"

# A picture that is a link within the studio: Streamlit's own pictures open theirs in a new tab, and a switch of pages
# from Python leaves an address in the browser's history that never was. It keeps its aspect in a box of one shape for
# all, so that rows of landscape and portrait clips stay even.
_poster = st.components.v2.component(
    "poster",
    html="<a part='link'><img alt='' hidden><span aria-hidden='true'></span></a>",
    css="""
a { display: block; width: 100%; aspect-ratio: 20 / 11; border-radius: var(--st-base-radius); overflow: hidden;
    background: var(--st-secondary-background-color); color: var(--st-text-color); text-decoration: none;
    font: 0.9rem var(--st-font); cursor: pointer; }
a:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 2px; }
a:hover img { filter: brightness(1.08); }
img { display: block; width: 100%; height: 100%; object-fit: contain; }
img[hidden] { display: none; }
span { display: grid; place-items: center; height: 100%; opacity: 0.85; }
span:empty { display: none; }
""",
    js="""
export default function ({ data, parentElement }) {
  const link = parentElement.querySelector("a"), picture = link.querySelector("img")
  link.href = data.href
  link.setAttribute("aria-label", data.name)
  link.querySelector("span").textContent = data.picture ? "" : data.words
  picture.hidden = !data.picture
  picture.onerror = () => { picture.hidden = true; link.querySelector("span").textContent = data.words }
  if (data.picture && picture.src !== data.picture) picture.src = data.picture
}
""",
)


def title_of(job: Job, length: int = 90) -> str:
    """The first sentence of its prompt, as it was typed; a long one ends with a whole word."""
    found = _SENTENCE.match(job.brief.prompt.strip())
    title = ui.shorten(found[0] if found else "", length)
    if title.endswith("…") and " " in title[-LONGEST_WORD:]:
        title = f"{title.rpartition(' ')[0].rstrip(',;:')} …"
    return title or ui.t("common.no_prompt")


def picture_of(job: Job) -> str | None:
    """The address of what shows a job best: its poster, or the frame that it begins with."""
    if job.draft.clip:
        return ui.media_url(job, POSTER)
    frame = job.draft.first_frame
    return ui.media_url(job, Path(frame).name) if frame and frame.startswith(f"{job.folder}/") else None


def poster(job: Job, key: str) -> None:
    """The picture of a job, as a link to its page."""
    params = {name: st.query_params[name] for name in ("lang",) if name in st.query_params} | {"job": job.id}
    _poster(
        data={
            "href": urljoin(st.context.url or "http://localhost", f"/clip?{urlencode(params)}"),
            "name": ui.t("gallery.open", title=title_of(job)),
            "picture": picture_of(job),
            "words": ui.t(f"common.{job.status}"),
        },
        key=key,
    )


def star(job: Job, key: str) -> None:
    """A button that stars a job or takes the star away; its picture has the name that a screen reader needs."""
    fill, stroke = ("#C27803", "#C27803") if job.starred else ("none", "#8A8378")
    picture = (
        "<svg xmlns='http://www.w3.org/2000/svg' width='24' height='24' viewBox='0 0 24 24' "
        f"fill='{fill}' stroke='{stroke}' stroke-width='2'><path d='{_STAR}'/></svg>"
    )
    encoded = base64.b64encode(picture.encode()).decode()
    name = ui.t("gallery.unstar" if job.starred else "gallery.star")
    st.button(
        f"![{name}](data:image/svg+xml;base64,{encoded})",
        key=key,
        type="tertiary",
        help=name,
        on_click=ui.store().star,
        args=(job.id, not job.starred),
    )


def show_facts(rows: Sequence[tuple[str, str]], name: str) -> None:
    """Names and values, one below the other; ``name`` is what a screen reader calls the table."""
    st.table(
        [{"name": ui.plain(label), "value": ui.plain(value)} for label, value in rows],
        border="horizontal",
        hide_index=True,
        hide_header=True,
        alt=name,
    )


def show_empty(icon: str, title: str, hint: str, *actions: tuple[str, str, str, Callable[[], None]]) -> None:
    """A place with nothing in it: what belongs here, and what to do. ``actions``: key, label, icon, what it does."""
    with st.container(border=True, horizontal_alignment="center", key=f"empty_{icon}"):
        st.space("medium")
        st.header(title, icon=f":material/{icon}:", anchor=False, text_alignment="center")
        st.caption(hint, text_alignment="center")
        with st.container(horizontal=True, horizontal_alignment="center", key=f"empty_{icon}_actions"):
            for place, (key, label, sign, action) in enumerate(actions):
                st.button(
                    label,
                    key=key,
                    icon=f":material/{sign}:",
                    type="secondary" if place else "primary",
                    on_click=action,
                )
        st.space("medium")


def going(name: str) -> Callable[[], None]:
    """What a button does that leads to the page of that name."""
    return partial(ui.go, name)


def usage() -> dict[str, int]:
    """Bytes on disk by what; counted every minute at most, as many jobs have many files."""
    return _usage(ui.settings().data)


def forget_usage() -> None:
    """Count anew: something was deleted, restored or removed here."""
    _usage.clear()


@st.cache_data(ttl="1m", show_spinner=False)
def _usage(data: Path) -> dict[str, int]:
    return JobStore(data).usage()


def number(amount: float) -> str:
    """A measure with a true minus sign and one decimal."""
    return f"{amount:.1f}".replace("-", "−")
