"""The frame of every page: page config, logo, language, navigation."""

import streamlit as st

from app import ui
from app.settings import ROOT
from app.store import StoreError

ICONS = {"create": "movie_edit", "queue": "list_alt", "gallery": "grid_view", "settings": "settings"}

st.set_page_config(page_title="MOVA Studio", page_icon=str(ROOT / "app" / "icon.svg"), layout="wide")
st.logo(str(ROOT / "app" / "logo.svg"), size="large")
with st.container(horizontal=True, horizontal_alignment="right", key="languages"):
    ui.language_switch()

pages = {
    name: st.Page(
        ROOT / "pages" / f"{name}.py",
        title=ui.t(f"nav.{name}"),
        icon=f":material/{icon}:",
        default=name == "create",
        help=ui.t(f"nav.{name}_help"),
    )
    for name, icon in ICONS.items()
}
pages["clip"] = st.Page(
    ROOT / "pages" / "clip.py", title=ui.t("nav.clip"), icon=":material/movie:", visibility="hidden"
)
ui.keep_pages(pages)
page = st.navigation(list(pages.values()), position="top")
if page.url_path != "gallery":
    st.session_state.pop("gallery_address", None)  # its widgets are forgotten now: the address tells them anew
try:
    page.run()
except StoreError as error:  # a disk that is full, a file that another program holds: a sentence and the remedy
    st.error(ui.plain(ui.t_said(str(error))), icon=":material/database_off:")
    st.button(ui.t("nav.again"), key="again", icon=":material/refresh:")
