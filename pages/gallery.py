"""Gallery: every clip that was made here, newest first; found by words, star, state and orientation."""

from typing import Any

import streamlit as st

from app import cards, ui
from app.jobs import Found, Job, Status, Wanted

PER_PAGE = 24
STATES: dict[str, tuple[Status, ...]] = {
    "finished": (Status.DONE,),
    "waiting": (Status.RUNNING, Status.QUEUED),
    "stopped": (Status.FAILED, Status.INTERRUPTED, Status.CANCELLED),
    "all": (),
}
ORIENTATIONS = ("landscape", "portrait")
STANDARD: dict[str, Any] = {"q": "", "state": "finished", "orientation": None, "starred": False, "page": 1}


def read_address() -> None:
    """The filters as the address has them, when somebody came by a link or went back; widgets know the rest."""
    asked = {name: st.query_params[name] for name in STANDARD if name in st.query_params}
    changed_here = st.session_state.pop("gallery_changed", False)
    if "gallery_address" in st.session_state and (changed_here or asked == st.session_state.gallery_address):
        return
    page = asked.get("page", "")
    st.session_state.gallery_q = asked.get("q", "")
    st.session_state.gallery_state = asked["state"] if asked.get("state") in STATES else STANDARD["state"]
    st.session_state.gallery_orientation = asked["orientation"] if asked.get("orientation") in ORIENTATIONS else None
    st.session_state.gallery_starred = asked.get("starred") == "true"
    turn_to(max(1, int(page)) if page.isdecimal() and len(page) < 9 else 1)


def write_address() -> None:
    """The filters in force, in the address: a reload keeps them, and a link shares them."""
    values = {name: st.session_state[f"gallery_{name}"] for name in STANDARD}
    address = {name: str(value).lower() if name == "starred" else str(value) for name, value in values.items()}
    for name, value in values.items():
        if value == STANDARD[name]:
            st.query_params.pop(name, None)
            address.pop(name)
        elif st.query_params.get(name) != address[name]:
            st.query_params[name] = address[name]
    st.session_state.gallery_address = address


def changed() -> None:
    """A filter was touched: it goes before the address, and its results begin at their first page."""
    st.session_state.gallery_changed = True
    turn_to(1)


def turn_to(page: int) -> None:
    """Show that page, whatever the pages below the clips said; they begin anew."""
    st.session_state.gallery_page = page
    st.session_state.gallery_turns = st.session_state.get("gallery_turns", 0) + 1


def turned() -> None:
    """The creator chose a page."""
    st.session_state.gallery_changed = True
    st.session_state.gallery_page = st.session_state[pages_key()]


def pages_key() -> str:
    return f"gallery_pages_{st.session_state.get('gallery_turns', 0)}"


def clear() -> None:
    for name, standard in STANDARD.items():
        st.session_state[f"gallery_{name}"] = standard
    changed()


def show_everything() -> None:
    clear()
    st.session_state.gallery_state = "all"


def show_filters() -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="filters"):
        st.text_input(
            ui.t("gallery.search"),
            key="gallery_q",
            type="search",
            live="300ms",
            placeholder=ui.t("gallery.search_placeholder"),
            label_visibility="collapsed",
            width=300,
            on_change=changed,
        )
        st.segmented_control(
            ui.t("gallery.state"),
            list(STATES),
            format_func=lambda state: f":gray[{ui.t(f'gallery.state_{state}')}]",
            key="gallery_state",
            required=True,
            label_visibility="collapsed",
            on_change=changed,
        )
        st.segmented_control(
            ui.t("gallery.orientation"),
            ORIENTATIONS,
            format_func=lambda choice: f":gray[:material/crop_{choice}: {ui.t(f'gallery.{choice}')}]",
            key="gallery_orientation",
            label_visibility="collapsed",
            on_change=changed,
        )
        st.toggle(ui.t("gallery.starred"), key="gallery_starred", on_change=changed)


def find() -> Found:
    """The clips of the page that the filters show; the last page for a number beyond it."""
    wanted = Wanted(
        text=st.session_state.gallery_q,
        states=STATES[st.session_state.gallery_state],
        starred=st.session_state.gallery_starred,
        orientation=st.session_state.gallery_orientation,
    )
    found = store.find(wanted, page=st.session_state.gallery_page, per_page=PER_PAGE)
    if found.total and not found.jobs:
        turn_to(pages_of(found))
        found = store.find(wanted, page=st.session_state.gallery_page, per_page=PER_PAGE)
    return found


def pages_of(found: Found) -> int:
    return max(1, -(-found.total // PER_PAGE))


def show_found(found: Found) -> None:
    first = (st.session_state.gallery_page - 1) * PER_PAGE + 1
    if found.total > PER_PAGE:
        st.caption(ui.t("gallery.total_page", first=first, last=first + len(found.jobs) - 1, count=found.total))
    else:
        st.caption(ui.t("gallery.total_one") if found.total == 1 else ui.t("gallery.total", count=found.total))
    grid = st.grid(4, min_column_width=160, gap=("medium", "small"), key="clips")
    for job in found.jobs:
        with grid.cell():
            show_card(job)
    if found.total > PER_PAGE:
        with st.container(key="pages"):
            st.pagination(
                pages_of(found),
                default=st.session_state.gallery_page,
                key=pages_key(),
                on_change=turned,
                max_visible_pages=5,
            )


def show_card(job: Job) -> None:
    with st.container(gap="xxsmall", key=f"card_{job.id}"):
        cards.poster(job, f"poster_{job.id}")
        st.markdown(ui.plain(cards.title_of(job, 60)))
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", horizontal_alignment="distribute", gap="xsmall",
            key=f"foot_{job.id}",
        ):  # fmt: skip
            with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key=f"state_{job.id}"):
                if job.status is not Status.DONE:
                    ui.status_badge(job.status)
                st.caption(about(job), width="content")
            cards.star(job, f"star_{job.id}")


def about(job: Job) -> str:
    """How long it is and how old, and that it is noise where it is."""
    words = [ui.ago(job.created_at)]
    if job.draft.rendered:
        words.insert(0, ui.t("common.seconds", seconds=f"{job.draft.rendered.duration:.1f}"))
        if ui.is_playground(job):
            words.append(ui.t("gallery.noise"))
    return " · ".join(words)


def filtered() -> bool:
    return any(st.session_state[f"gallery_{name}"] != value for name, value in STANDARD.items())


def show_nothing() -> None:
    """No clip: because there is none at all, none is finished, or none fits the filters."""
    if filtered():
        action = ("clear", ui.t("gallery.clear"), "filter_alt_off", clear)
        cards.show_empty("search_off", ui.t("gallery.nothing"), ui.t("gallery.nothing_hint"), action)
    elif store.find(Wanted(), per_page=1).total:
        actions = (
            ("to_queue", ui.t("gallery.to_queue"), "list_alt", cards.going("queue")),
            ("show_all", ui.t("gallery.show_all"), "filter_alt_off", show_everything),
        )
        cards.show_empty("hourglass", ui.t("gallery.not_finished"), ui.t("gallery.not_finished_hint"), *actions)
    else:
        action = ("to_create", ui.t("gallery.to_create"), "movie_edit", cards.going("create"))
        cards.show_empty("grid_view", ui.t("gallery.empty"), ui.t("gallery.empty_hint"), action)


store = ui.store()
read_address()
ui.tab_title(ui.t("nav.gallery"))
st.title(ui.t("nav.gallery"), anchor=False)
st.caption(ui.t("gallery.about"))
found = find()
write_address()
if found.jobs or filtered():
    show_filters()
if found.jobs:
    show_found(found)
else:
    show_nothing()
