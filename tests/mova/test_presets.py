"""Presets in words, fitted to devices; what a device lacks."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest

from mova import presets
from mova.presets import PRESETS, Capability, Note, Preset, fitted, missing, preset_named, sage_installed, unavailable

ADA, HOPPER, AMPERE, TURING = (8, 9), (9, 0), (8, 6), (7, 5)


def test_exact_is_exact_and_nothing_else_is() -> None:
    assert [name for name, preset in PRESETS.items() if preset.exact] == ["exact"]
    assert PRESETS["exact"].changes == ()
    assert list(PRESETS) == ["exact", "light", "fast", "fastest"]
    assert all(preset.name == name for name, preset in PRESETS.items())


def test_each_lever_is_told_in_sentences() -> None:
    whole = Preset("whole", "int8", "w8a8", sage=True, guided_share=0.5, cache=0.08)
    codes = [note.code for note in whole.changes]
    assert codes == ["weights-int8", "w8a8", "sage", "guided-share", "cache"]
    assert replace(whole, weights="fp8").changes[0].code == "weights-fp8"
    for without in (
        replace(whole, sage=False),
        replace(whole, guided_share=1.0),
        replace(whole, cache=None),
        replace(whole, matmul="plain"),
    ):
        assert len(without.changes) == len(codes) - 1
    assert all(str(note).endswith(".") and "  " not in str(note) for note in whole.changes)
    assert dict(whole.changes[3].figures) == {"share": "50%"}


@pytest.mark.parametrize(
    ("capability", "weights", "matmul", "codes"),
    [
        (HOPPER, "fp8", "w8a8", []),
        (ADA, "fp8", "w8a8", []),
        (AMPERE, "int8", "w8a8", ["int8-for-fp8"]),
        (TURING, "int8", "plain", ["no-8-bit-products", "sage-needs-card"]),
        (None, "int8", "w8a8", ["int8-for-fp8", "sage-needs-card"]),
    ],
)
def test_a_preset_fits_itself_to_the_device(
    capability: Capability | None, weights: str, matmul: str, codes: list[str]
) -> None:
    able = fitted(PRESETS["fast"], capability, sage=True)
    assert (able.weights, able.matmul, able.sage) == (weights, matmul, "sage-needs-card" not in codes)
    assert [note.code for note in missing(PRESETS["fast"], capability, sage=True)] == codes
    assert able.guided_share == PRESETS["fast"].guided_share
    assert fitted(able, capability, sage=True) == able


def test_sage_is_used_only_where_it_is_installed() -> None:
    assert not fitted(PRESETS["fast"], ADA, sage=False).sage
    (note,) = missing(PRESETS["fast"], ADA, sage=False)
    assert "isn't installed" in note.text


def test_exact_and_light_fit_everywhere() -> None:
    for capability in (HOPPER, AMPERE, TURING, None):
        for name in ("exact", "light"):
            assert fitted(PRESETS[name], capability, sage=False) == PRESETS[name]
            assert missing(PRESETS[name], capability, sage=False) == ()


def test_a_preset_of_which_nothing_is_left_isn_t_offered() -> None:
    for capability in (HOPPER, AMPERE, TURING, None):
        assert all(unavailable(preset, capability, sage=False) is None for preset in PRESETS.values())
    hopeless = Preset("hopeless", sage=True)
    assert unavailable(hopeless, ADA, sage=True) is None
    reason = unavailable(hopeless, ADA, sage=False)
    assert isinstance(reason, Note)
    assert "'exact'" in reason.text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"matmul": "w8a8"}, "weights in 8 bits"),
        ({"guided_share": 1.5}, "outside 0 to 1"),
        ({"cache": -0.1}, "negative"),
    ],
)
def test_impossible_presets_can_t_be_made(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Preset("wrong", **wrong)  # type: ignore[arg-type]


def test_an_unknown_preset_is_named() -> None:
    assert preset_named("light") is PRESETS["light"]
    with pytest.raises(ValueError, match=r"'warp'.*exact, light, fast, fastest"):
        preset_named("warp")


@pytest.mark.parametrize(
    ("found", "usable"), [(None, False), ("1.0.6", False), ("2.1.1", True), ("2.2.0+cu130torch2.11", True)]
)
def test_an_old_sage_counts_as_none(monkeypatch: pytest.MonkeyPatch, found: str | None, usable: bool) -> None:
    def version(_name: str) -> str:
        if found is None:
            raise PackageNotFoundError
        return found

    monkeypatch.setattr(presets, "version", version)
    monkeypatch.setattr(presets, "find_spec", lambda _name: object())
    assert sage_installed() == usable
