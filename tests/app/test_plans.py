"""What is told of plans: resources as they will be, outlooks as values, and every reason in both languages."""

from __future__ import annotations

import os
import re
import string
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from app import doctor, machine, plans
from app.explain import explain
from app.installed import State
from app.jobs import Kind, Preset
from app.machine import Held
from app.plans import How
from app.texts import Language, catalogue, duration, translated
from mova.plan import DoesNotFit, Plan
from mova.playground import make_playground
from mova.presets import PRESETS, Note, missing, unavailable
from mova.reasons import SENTENCES
from mova.released import RELEASED_360P
from mova.resources import Card, Resources
from mova.spec import ClipSpec

GIB = 1 << 30
SPECS = (ClipSpec(), ClipSpec(width=1280, height=720))
CARDS = {
    0: None,
    8: Card("NVIDIA GeForce RTX 3070", 8 * GIB, 8 * GIB, (8, 6)),
    12: Card("NVIDIA GeForce RTX 4070", 12 * GIB, 12 * GIB, (8, 9)),
    24: Card("A card that nobody knows", 24 * GIB, 24 * GIB, (7, 5)),
    141: Card("NVIDIA H200", 140 * GIB, 140 * GIB, (9, 0)),
}
AUTO = How()
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def resources(card: Card | None, ram: int = 64) -> Resources:
    return Resources(card, ram * GIB * 9 // 10, ram * GIB, 500 * GIB)


def outlook(card: Card | None, spec: ClipSpec = SPECS[0], how: How = AUTO, ram: int = 64) -> Plan | DoesNotFit:
    found = plans.outlook(RELEASED_360P, spec, resources(card, ram), how)
    assert found is not None
    return found


def plan_on(card: Card | None, **about: int) -> Plan:
    found = outlook(card, **about)  # type: ignore[arg-type]
    assert isinstance(found, Plan)
    return found


@cache
def outlooks() -> tuple[Plan | DoesNotFit, ...]:
    """What comes of small and large machines."""
    machines = [(card, spec, ram) for card in CARDS.values() for spec, ram in zip(SPECS, (128, 16), strict=True)]
    asked = [How(), How(preset="fastest"), How("none")]
    return tuple(outlook(card, spec, how, ram) for card, spec, ram in machines for how in asked)


def notes() -> set[Note]:
    """All that can be said of presets on any card."""
    capabilities = [card.capability if card else None for card in CARDS.values()]
    told = {note for preset in PRESETS.values() for note in preset.changes}
    for preset in PRESETS.values():
        for capability in capabilities:
            for sage in (False, True):
                told |= {*missing(preset, capability, sage=sage)}
                told |= {note for note in (unavailable(preset, capability, sage=sage),) if note}
    return told


def test_the_studio_offers_the_librarys_presets() -> None:
    assert get_args(Preset) == tuple(PRESETS)


# Words


@pytest.mark.parametrize("code", SENTENCES)
def test_every_reason_is_said_in_both_languages_with_its_figures(code: str) -> None:
    figures = {name for _, name, _, _ in string.Formatter().parse(SENTENCES[code]) if name}
    entry = catalogue()[f"reason.{code}"]
    for language in Language:
        assert {name for _, name, _, _ in string.Formatter().parse(entry[language]) if name} == figures
    assert CHINESE.search(entry["zh"])


def test_every_plan_and_every_lack_is_said_in_both_languages() -> None:
    for found in outlooks():
        reasons = found.reasons if isinstance(found, Plan) else found.remedies
        assert reasons
        said = [plans.reason_in_words(reason, language) for language in Language for reason in reasons]
        said += [
            plans.in_words(found, each) if isinstance(found, Plan) else plans.lacking(found, each) for each in Language
        ]
        assert not any("{" in sentence or "_bytes" in sentence for sentence in said)
        assert all(
            bool(CHINESE.search(text)) is (place >= len(reasons)) for place, text in enumerate(said[: 2 * len(reasons)])
        )


def test_every_note_on_a_preset_is_said_in_both_languages() -> None:
    told = notes()
    assert {note.code for note in told} >= {"guided-share", "sage-not-installed", "no-8-bit-products"}
    for note in told:
        assert f"reason.{note.code}" in catalogue(), note.code
        assert CHINESE.search(plans.reason_in_words(note, Language.ZH))
        assert "{" not in plans.reason_in_words(note, Language.EN)


def test_every_part_of_the_arithmetic_has_a_name() -> None:
    terms = {
        term for found in outlooks() if isinstance(found, Plan) for phase in found.phases for term, _ in phase.terms
    }
    assert "layers" in terms
    for term in terms:
        assert f"term.{term.replace(' ', '_')}" in catalogue(), term
        assert CHINESE.search(plans.term_in_words(term, Language.ZH))


def test_a_reason_that_nobody_knows_yet_is_said_in_english() -> None:
    assert plans.reason_in_words(Note("brand-new", "Something new."), Language.ZH) == "Something new."
    assert plans.term_in_words("something new", Language.ZH) == "something_new"


def test_figures_are_written_as_people_read_them() -> None:
    lack = outlook(CARDS[8], SPECS[1], ram=16)
    assert isinstance(lack, DoesNotFit)
    assert plans.lacking(lack, Language.EN).startswith("It doesn't fit by 2.")
    assert "GB of VRAM, and" in plans.lacking(lack, Language.EN)
    told = [plans.reason_in_words(reason, Language.EN) for reason in lack.remedies]
    assert any(re.fullmatch(r"Make it \d+ frames or fewer \(\d\.\d s\)\.", sentence) for sentence in told)
    assert [duration(seconds, Language.EN) for seconds in (0.84, 8, 80, 100, 3000, 9000)] == [
        *("0.8 s", "8.0 s", "80 s", "2 min", "50 min", "2.5 h"),
    ]


def test_where_layers_wait_is_told_by_the_plan() -> None:
    assert plans.in_words(plan_on(CARDS[141]), Language.EN).startswith("All weights stay in VRAM")
    assert "read from the disk" in plans.in_words(plan_on(CARDS[8], ram=16), Language.EN)
    assert "of 40 in VRAM" in plans.in_words(plan_on(CARDS[12], ram=128), Language.EN)
    assert plans.in_words(plan_on(None), Language.EN).startswith("Computed on the CPU")


# What there is


def test_an_outlook_is_a_value_whatever_comes_of_it() -> None:
    assert isinstance(outlook(CARDS[12]), Plan)
    assert isinstance(outlook(CARDS[12], how=How("none")), DoesNotFit)
    assert plans.outlook(RELEASED_360P, SPECS[0], resources(None), How(device="cuda:1")) is None


def test_measured_times_take_the_place_of_estimates() -> None:
    before = plan_on(CARDS[12])
    assert before.seconds
    assert not before.phase("denoising").measured
    measured = {before.key: {"text": 1.0, "frame": 2.0, "step": 3.0, "decoding": 4.0}}
    after = plans.outlook(RELEASED_360P, SPECS[0], resources(CARDS[12]), How(), measured)
    assert isinstance(after, Plan)
    assert (after.seconds, after.phase("denoising").measured) == (1 + 2 + 3 * 50 + 4, True)


def test_the_seed_makes_no_other_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    first = outlook(CARDS[12], SPECS[0].model_copy(update={"seed": 1}))
    assert outlook(CARDS[12], SPECS[0].model_copy(update={"seed": 2, "negative_prompt": "rain"})) is first


def test_a_checkpoint_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "MOVA-playground"
    assert plans.model_of(checkpoint) is None, "it isn't made yet"
    make_playground(checkpoint)
    model = plans.model_of(checkpoint)
    assert model
    assert plans.model_of(checkpoint) is model
    os.utime(checkpoint / "video_dit" / "config.json", ns=(1, 1))
    again = plans.model_of(checkpoint)
    assert again == model
    assert again is not model
    (checkpoint / "video_dit" / "config.json").write_text("{}")
    assert plans.model_of(checkpoint) is None


@pytest.mark.parametrize(
    ("held", "free"), [(Held(4 * GIB, 6 * GIB), 9), (Held(4 * GIB, None), 12), (Held(0, 11 * GIB), 12)]
)
def test_what_the_worker_holds_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Held, free: int
) -> None:
    """Where the driver doesn't say what it is, the card is taken to be empty."""
    card = replace(CARDS[12], free=3 * GIB + 5)  # type: ignore[type-var]
    monkeypatch.setattr(plans, "read_card", lambda device: card)
    monkeypatch.setattr(plans, "read_memory", lambda: (10 * GIB + 5, 16 * GIB))
    monkeypatch.setattr(machine, "held_by", lambda process: held)
    alone = plans.resources_of(tmp_path, "cuda:0")
    assert alone.card
    assert (alone.card.free, alone.ram_free) == (3 * GIB, 10 * GIB), "rounded: a plan doesn't change with every byte"
    beside = plans.resources_of(tmp_path, "cuda:0", worker=1)
    assert beside.card
    assert (beside.card.free, beside.ram_free) == (free * GIB, 10 * GIB + held.memory)
    assert plans.resources_of(tmp_path / "not" / "there", "cpu").card is None


# What else tells of plans


def test_doctor_tells_the_plan_in_a_line() -> None:
    fits = doctor.planned("MOVA-360p, 640x352, 8 s", plan_on(CARDS[12]))
    assert fits.state is State.OK
    assert fits.said.startswith("MOVA-360p, 640x352, 8 s: Layers are streamed: ")
    assert re.search(r"At most \d+\.\d GB of VRAM, \d+\.\d GB of RAM, about \d+ min \(estimated\)$", fits.said)
    lack = doctor.planned("MOVA-720p, 1280x720, 8 s", outlook(CARDS[8], SPECS[1], ram=16))
    assert lack.state is State.ATTENTION
    assert "doesn't fit by" in lack.said
    assert "Make it 640x352." in lack.remedy
    assert "of VRAM" not in doctor.planned("", plan_on(None)).said


@pytest.mark.parametrize("card", [8, 24])
def test_a_clip_that_does_not_fit_fails_with_what_would(card: int) -> None:
    error = outlook(CARDS[card], SPECS[1], How("none"), ram=16)
    assert isinstance(error, DoesNotFit)
    failure = explain(error)
    assert failure.kind is Kind.DOES_NOT_FIT
    assert failure.sentence.startswith("It doesn't fit by")
    assert failure.sentence.endswith("can be used."), "what would fit is the remedy's"
    assert failure.remedy == " ".join(map(str, error.remedies))
    chinese = translated(failure.sentence, Language.ZH)
    assert chinese.startswith("放不下")
    assert not re.search("[a-z]{4}", chinese)


def test_what_the_engine_notes_of_memory_is_said_in_chinese() -> None:
    """As ``mova.planned`` and ``mova.lanes`` say it."""
    said = (
        "Memory ran out while denoising; it went on with less: 3 layers on the device at a time, 4096 tokens at a time."
    )
    assert translated(said, Language.ZH) == (
        "在生成时内存不足，已改用更省的方式继续：设备上同时 3 层、每次 4096 个词元。"
    )
    assert translated(said, Language.EN) == said
    assert "something new" in translated(said.replace("4096 tokens", "something new"), Language.ZH)
    pinned = "Pinned memory was refused (CUDA error 2), so that weights travel more slowly."
    assert translated(pinned, Language.ZH) == "系统拒绝锁页内存（CUDA 错误 2），权重搬运会慢一些。"
