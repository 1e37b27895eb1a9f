"""The frame of every page: page config, logo, navigation."""

import streamlit as st

from app.settings import ROOT

st.set_page_config(page_title="MOVA Studio", page_icon=str(ROOT / "app" / "icon.svg"), layout="wide")
st.logo(str(ROOT / "app" / "logo.svg"), size="large")

create = st.Page(
    ROOT / "pages" / "create.py",
    title="Create",
    icon=":material/movie_edit:",
    default=True,
    help="A prompt and a first frame become a clip with sound.",
)
st.navigation([create], position="top").run()
