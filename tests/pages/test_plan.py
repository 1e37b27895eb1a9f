"""Plans on Create, Settings and a clip's page, for machines that are made up; without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import desk, failures, plandesk, plans
from app.jobs import Brief, Failure, Kind, Machine, Progress, Status
from app.store import JobStore
from mova.layout import CheckpointInfo
from mova.released import RELEASED_360P
from mova.resources import Card
from mova.spec import ClipSpec
from tests.pages import stage
from tests.pages.stage import click, look, run, shown, visit

GIB = 1 << 30
SMALL = Card("NVIDIA GeForce RTX 3070", 8 * GIB, 8 * GIB, (8, 6))
USUAL = Card("NVIDIA GeForce RTX 4070", 12 * GIB, 12 * GIB, (8, 9))
SECONDS = {"loading": 30.0, "text": 1.0, "frame": 2.0, "denoising": 600.0, "decoding": 10.0, "writing": 5.0}


class Here:
    """The machine that the studio is told it runs on."""

    card: Card | None = USUAL
    ram = 128


@pytest.fixture
def here(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Here]]:
    """A machine with a card and both released checkpoints, of which there are no files; Simple mode."""

    class Told(Here):
        pass

    folder = store.data / "checkpoints"
    checkpoints = [CheckpointInfo(folder / name, name, (), ()) for name in ("MOVA-360p", "MOVA-720p")]
    monkeypatch.setattr(desk, "find_checkpoints", lambda data, named: checkpoints)
    monkeypatch.setattr(plans, "model_of", lambda checkpoint: RELEASED_360P)
    monkeypatch.setattr(plans, "read_card", lambda device: Told.card)
    monkeypatch.setattr(plans, "read_memory", lambda: (Told.ram * GIB * 9 // 10, Told.ram * GIB))
    plandesk._around.clear()
    fill(store)
    yield Told
    plandesk._around.clear()


def fill(store: JobStore, **fields: object) -> None:
    """What the Create form holds when it is next visited."""
    folder = store.data / "checkpoints"
    store.keep_form({"mode": "simple", "checkpoint": str(folder / "MOVA-360p")} | fields)


def large(store: JobStore) -> dict[str, str]:
    return {"checkpoint": str(store.data / "checkpoints" / "MOVA-720p")}


def made(store: JobStore, brief: Brief, plan: str) -> None:
    """Have a clip been made by that plan."""
    job = store.submit(brief)
    store.claim()
    store.report(job.id, Progress(phase="writing", step=1, total=1, seconds=SECONDS), Machine(device="x", plan=plan))
    store.close(job.id, Status.DONE)


def buttons(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button}


# Create


def test_the_plan_stands_on_create_with_its_reasons_and_its_arithmetic(here: type[Here], store: JobStore) -> None:
    text = shown(visit("create"))
    assert "This clip on this machine" in text
    assert "layer by layer" in text
    assert "NVIDIA GeForce RTX 4070: 12.0 GB of 12.0 GB VRAM free" in text
    assert "Layers are streamed: " in text
    for words in (
        "of 40 layers are in VRAM at a time",
        "Times are estimates",
        "Making picture and sound",
        "Working memory",
    ):
        assert words in text
    assert "(estimated)" in text
    assert "an estimate, until a clip was made by this plan here" in text


def test_it_is_told_in_chinese(here: type[Here], store: JobStore) -> None:
    text = shown(visit("create", "zh"))
    for words in ("这个片段在这台机器上", "逐层调入", "层中每次有", "（估算）", "工作内存", "显存还差"):
        assert words in text


def test_measured_times_replace_the_estimates(here: type[Here], store: JobStore) -> None:
    """Those of this plan, for clips of this size."""
    page = visit("create")
    (estimate,) = [each.value for each in page.caption if "an estimate, until" in each.value]
    click(page, "generate")
    brief = store.queue()[0].brief
    store.cancel(store.queue()[0].id)
    outlook = plans.outlook(RELEASED_360P, brief.spec, plandesk.around(store.data / brief.checkpoint), plans.How())
    assert isinstance(outlook, plans.Plan)
    made(store, brief, "another plan")
    assert estimate in shown(visit("create")), "of another plan"
    made(store, brief, outlook.key)
    text = shown(visit("create"))
    assert estimate not in text
    assert "About 10:18 min each, as measured before." in text
    assert "10:13 min (measured)" in text
    assert "Time (measured)" in text
    assert "Times are estimates" not in text
    assert "Estimates come from" not in text


def test_modes_that_do_not_fit_say_by_how_much_and_can_be_chosen(here: type[Here], store: JobStore) -> None:
    page = visit("create")
    field = page.selectbox(key="offload")
    assert [option.endswith("too little VRAM") for option in field.options] == [False, True, True, False]
    assert "on the GPU, all of them: " in shown(page)
    assert "more VRAM would be needed" in shown(page)
    run(field.set_value("none") and page)
    assert "It doesn't fit by " in page.warning[0].value.replace("\\", "")
    click(page, "fit_other-mode")
    assert page.selectbox(key="offload").value == "auto"
    assert not page.warning


def test_what_does_not_fit_is_told_with_buttons_that_make_it_fit(here: type[Here], store: JobStore) -> None:
    here.card, here.ram = SMALL, 16
    fill(store, **large(store))
    page = visit("create")
    assert "Making picture and sound takes at least" in page.warning[0].value
    assert {"fit_fewer-frames", "fit_smaller"} <= buttons(page)
    assert "Render on a server: add one in Settings" in shown(page)
    assert "How long it takes is not known yet." in shown(page)
    click(page, "fit_fewer-frames")
    assert page.number_input(key="num_frames").value < 193
    assert not page.warning
    fill(store, **large(store))
    page = click(visit("create"), "fit_smaller")
    assert page.selectbox(key="checkpoint").value.endswith("MOVA-360p")
    assert not page.warning


def test_a_lighter_preset_is_offered_where_it_fits(here: type[Here], store: JobStore) -> None:
    here.card = Card("NVIDIA H100 80GB HBM3", 80 * GIB, 80 * GIB, (9, 0))
    fill(store, offload="none")
    page = click(visit("create"), "fit_preset")
    assert page.selectbox(key="preset").value == "light"
    assert not page.warning


def test_a_server_is_offered_where_there_is_one(
    here: type[Here], store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_SGLANG__ONE__BASE_URL", "http://127.0.0.1:9")
    here.card = SMALL
    fill(store, **large(store))
    page = click(visit("create"), "fit_remote")
    assert page.selectbox(key="engine").value == "sglang"
    assert "that machine's affair" in shown(page)
    assert "This clip on this machine" not in shown(page)


def test_without_a_gpu_modes_are_disabled_and_say_why(here: type[Here], store: JobStore) -> None:
    here.card = None
    page = visit("create")
    assert page.selectbox(key="offload").disabled
    assert "No effect here: no GPU was found" in shown(page)
    assert "Computed on the CPU." in shown(page)
    assert "VRAM" not in shown(page).split("This clip on this machine")[1]
    assert "What takes the RAM while it is at its most" in shown(page)
    assert "The program itself" in shown(page)


def test_a_preset_says_what_it_changes_and_what_this_card_lacks(here: type[Here], store: JobStore) -> None:
    here.card = SMALL
    page = visit("create")
    assert "exactly what the weights give" in shown(page)
    run(page.selectbox(key="preset").set_value("fast") and page)
    assert "Only the first 50% of the steps are guided" in shown(page)
    assert "float8 products need compute capability 8.9 (Ada, Hopper), and this is 8.6: int8 is used instead." in shown(
        page
    )
    click(page, "generate")
    assert store.queue()[0].brief.preset == "fast"


def test_the_form_starts_as_the_settings_say(
    here: type[Here], store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_PRESET", "light")
    page = visit("create")
    assert (page.selectbox(key="offload").value, page.selectbox(key="preset").value) == ("auto", "light")


def test_before_there_are_weights_there_is_no_plan(store: JobStore) -> None:
    store.keep_form({"mode": "simple"})
    assert "This clip on this machine" not in shown(visit("create"))


# Settings


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "en",
            (
                "At 640 × 352",
                "At 1280 × 720",
                "automatic: layer by layer",
                "doesn't fit",
                "GB too little",
                "(estimated)",
            ),
        ),
        ("zh", ("1280 × 720", "自动：逐层", "放不下", "（估算）", "层中每次有")),
    ],
)
def test_settings_tell_what_each_mode_takes(
    here: type[Here], store: JobStore, language: str, words: tuple[str, ...]
) -> None:
    text = shown(visit("settings", language))
    for each in words:
        assert each in text


def test_settings_tell_what_would_fit_and_what_presets_change(here: type[Here], store: JobStore) -> None:
    here.card, here.ram = SMALL, 16
    text = shown(visit("settings"))
    assert "What would fit:" in text
    assert "Make it 640 × 352." in text
    assert "A step whose first layer changed by less than 8%" in text
    assert "this is 8.6: int8 is used instead." in text
    assert "SageAttention isn't installed" in text


def test_the_kernel_is_told_once_a_clip_was_made(here: type[Here], store: JobStore) -> None:
    assert "is known once a clip was made here" in shown(visit("settings"))
    stage.finished(store)
    job = store.submit(stage.brief())
    store.claim()
    progress = Progress(phase="text", step=0, total=1, seconds={"text": 0.0})
    store.report(job.id, progress, Machine(attention="_native_cudnn"))
    assert "Attention kernel of the last clip that was made here: cuDNN." in shown(visit("settings"))


def test_without_a_checkpoint_the_released_one_is_planned(store: JobStore) -> None:
    text = shown(visit("settings"))
    assert "What MOVA-360p would take if it were here" in text


# A clip's page, and failures


def test_a_clips_page_tells_plan_kernel_and_notes(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    note = "Pinned memory was refused (CUDA error 2), so that weights travel more slowly."
    on = stage.MACHINE.model_copy(
        update={"plan": "RTX 4070|MOVA-360p", "mode": "layer", "attention": "native", "notes": (note,)}
    )
    monkeypatch.setattr(stage, "MACHINE", on)
    job = stage.finished(store)
    text = shown(visit("clip", job=job.id))
    for words in (
        "in main memory, layer by layer (chosen automatically)",
        "PyTorch SDPA",
        "RTX 4070 · MOVA-360p",
        note,
    ):
        assert words in text
    assert "系统拒绝锁页内存" in shown(visit("clip", "zh", job=job.id))
    assert "Exact" in text


def test_a_clip_of_before_there_were_plans_has_none(store: JobStore) -> None:
    assert "chosen automatically" not in shown(visit("clip", job=stage.finished(store).id))


def failed(store: JobStore, kind: Kind, mode: str | None = None, **asked: str) -> str:
    brief = stage.brief().model_copy(update=asked)
    job = store.submit(brief)
    store.claim()
    progress = Progress(phase="denoising", step=0, total=1, seconds={"denoising": 1.0})
    store.report(job.id, progress, Machine(mode=mode))  # type: ignore[arg-type]
    store.close(job.id, Status.FAILED, Failure(kind=kind, sentence="It doesn't fit.", remedy="Less."))
    return job.id


@pytest.mark.parametrize(
    ("kind", "asked", "mode", "offered"),
    [
        (Kind.GPU_MEMORY, {}, "component", ["offload", "light"]),
        (Kind.GPU_MEMORY, {}, "layer", ["light", "shorter"]),
        (Kind.GPU_MEMORY, {"offload": "layer", "preset": "light"}, "layer", ["shorter"]),
        (Kind.GPU_MEMORY, {"preset": "fast"}, None, ["offload", "shorter"]),
        (Kind.DOES_NOT_FIT, {}, None, ["light", "shorter"]),
        (Kind.DOES_NOT_FIT, {"preset": "light"}, None, ["shorter"]),
    ],
)
def test_remedies_are_those_that_can_help(
    store: JobStore, kind: Kind, asked: dict[str, str], mode: str | None, offered: list[str]
) -> None:
    job_id = failed(store, kind, mode, **asked)
    assert failures.remedies(look(store, job_id)) == offered


def test_a_lighter_preset_is_one_click(store: JobStore) -> None:
    job_id = failed(store, Kind.DOES_NOT_FIT)
    page = visit("create", job=job_id)
    assert "Make it shorter or smaller, take a lighter preset, or render it on a server." in shown(page)
    click(page, f"light_{job_id}")
    copy, before = store.history()
    assert (copy.brief.preset, copy.brief.spec, copy.status) == ("light", before.brief.spec, Status.QUEUED)


def test_a_spec_of_any_size_can_be_planned(here: type[Here], store: JobStore, tmp_path: Path) -> None:
    brief = Brief(prompt="", checkpoint="x", spec=ClipSpec(width=64, height=48, num_frames=5))
    assert set(plandesk.planned(RELEASED_360P, brief)) == {"auto", "none", "component", "layer"}
