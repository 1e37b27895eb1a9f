"""The local engine, real, on the playground checkpoint: small clips, one step."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from app.checkpoints import identify, playground_path
from app.engines import LocalEngine, OnStep, open_engine
from app.jobs import Brief, Cancelled, Draft
from app.settings import Settings
from mova.layout import CheckpointError
from mova.picture import PictureError
from tests.app.conftest import make_brief, picture


def hear(phases: list[str]) -> OnStep:
    return lambda phase, step, total: phases.append(phase)


def quiet(phase: str, step: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def engine(data: Path) -> LocalEngine:
    return LocalEngine(data, device="cpu")


def render(engine: LocalEngine, brief: Brief, target: Path) -> bytes:
    engine.render(brief, Draft(prompt=brief.prompt, first_frame=brief.first_frame), target, quiet, pytest.fail)
    return target.read_bytes()


def test_a_prompt_and_a_picture_become_a_clip(engine: LocalEngine, data: Path) -> None:
    (data / "frame.png").write_bytes(picture(200, 100))
    brief = make_brief(steps=1, first_frame="frame.png", last_frame="frame.png")
    heard: list[str] = []
    draft = Draft(prompt=brief.prompt, first_frame=brief.first_frame)
    rendered = engine.render(
        brief, draft, data / "clip.mp4", lambda phase, step, total: heard.append(phase), pytest.fail
    )
    assert list(dict.fromkeys(heard)) == ["loading", "text", "frame", "denoising", "decoding", "writing"]
    assert (rendered.width, rendered.height, rendered.num_frames, rendered.duration) == (64, 48, 5, 0.5)
    assert rendered.notes == ()
    with av.open(str(data / "clip.mp4")) as clip:
        assert len(clip.streams.audio) == 1


def test_the_pipeline_stays_loaded_and_a_seed_means_a_clip(engine: LocalEngine, data: Path) -> None:
    brief = make_brief(steps=1)
    first = render(engine, brief, data / "a.mp4")
    heard: list[str] = []
    engine.render(
        brief, Draft(prompt=brief.prompt), data / "b.mp4", lambda phase, step, total: heard.append(phase), pytest.fail
    )
    assert "loading" not in heard
    assert (data / "b.mp4").read_bytes() == first
    other = brief.model_copy(update={"spec": brief.spec.model_copy(update={"seed": 8})})
    assert render(engine, other, data / "c.mp4") != first


def test_a_freed_engine_loads_again_and_gives_the_same_clip(engine: LocalEngine, data: Path) -> None:
    brief = make_brief(steps=1)
    first = render(engine, brief, data / "a.mp4")
    engine.free()
    heard: list[str] = []
    engine.render(
        brief, Draft(prompt=brief.prompt), data / "b.mp4", lambda phase, step, total: heard.append(phase), pytest.fail
    )
    assert "loading" in heard
    assert (data / "b.mp4").read_bytes() == first


def test_the_engine_says_what_it_ran_on(engine: LocalEngine, data: Path) -> None:
    assert LocalEngine(data).machine().device is None
    render(engine, make_brief(steps=1), data / "a.mp4")
    machine = engine.machine()
    assert (machine.engine, machine.device) == ("mova", "cpu")
    assert machine.checkpoint_id == identify(playground_path(data))
    assert machine.peak_memory["rss"] > 50_000_000


def test_the_crop_is_where_the_creator_put_it(engine: LocalEngine, data: Path) -> None:
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste((255, 255, 255), (200, 0, 400, 100))
    wide.save(data / "wide.png")
    brief = make_brief(steps=1, first_frame="wide.png")
    left, right = (brief.model_copy(update={"first_frame_position": (across, 0.5)}) for across in (0.0, 1.0))
    assert render(engine, left, data / "l.mp4") != render(engine, right, data / "r.mp4")


def test_another_offload_loads_nothing_twice_and_gives_the_same_clip(engine: LocalEngine, data: Path) -> None:
    first = render(engine, make_brief(steps=1), data / "a.mp4")
    heard: list[str] = []
    brief = make_brief(steps=1, offload="component")
    engine.render(
        brief, Draft(prompt=brief.prompt), data / "d.mp4", lambda phase, step, total: heard.append(phase), pytest.fail
    )
    assert "loading" not in heard
    assert (data / "d.mp4").read_bytes() == first


def test_the_plan_is_in_the_record(engine: LocalEngine, data: Path) -> None:
    render(engine, make_brief(steps=1), data / "a.mp4")
    machine = engine.machine()
    assert machine.plan
    assert "MOVA-playground" in machine.plan
    assert (machine.mode, machine.attention, machine.notes) == ("none", "native", ())


def test_a_prompt_is_read_once(engine: LocalEngine, data: Path) -> None:
    render(engine, make_brief(steps=1), data / "a.mp4")
    kept = sorted((data / "cache" / "prompts").iterdir())
    assert kept
    render(engine, make_brief(steps=1), data / "b.mp4")
    assert sorted((data / "cache" / "prompts").iterdir()) == kept


def test_a_cancel_leaves_no_file_and_the_engine_usable(engine: LocalEngine, data: Path) -> None:
    first = render(engine, make_brief(steps=1), data / "a.mp4")

    def cancel(phase: str, step: int, total: int) -> None:
        if phase == "denoising":
            raise Cancelled

    with pytest.raises(Cancelled):
        engine.render(make_brief(steps=2), Draft(prompt=""), data / "cancelled.mp4", cancel, pytest.fail)
    assert not list(data.glob("cancelled*"))
    assert render(engine, make_brief(steps=1), data / "e.mp4") == first


def test_what_is_missing_is_said(engine: LocalEngine, data: Path) -> None:
    nowhere = make_brief(steps=1).model_copy(update={"checkpoint": "checkpoints/nowhere"})
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        render(engine, nowhere, data / "f.mp4")
    with pytest.raises(PictureError, match="can't be read"):
        render(engine, make_brief(first_frame="gone.png"), data / "f.mp4")


def test_settings_reach_the_engine(data: Path) -> None:
    engine = open_engine(Settings(data=data, device="cuda:99"))
    with pytest.raises(ValueError, match="cuda:99"):
        engine.render(make_brief(), Draft(prompt=""), data / "g.mp4", quiet, pytest.fail)
