"""The bench on a device that is a CPU, with the playground's shapes: what runs on a CUDA device is run here first."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mova import fused
from mova.__main__ import main
from mova.bench import ceilings, stepping
from mova.bench.device import Trial
from mova.bench.figures import Figure, Result, Trouble, guarded, lines, write_json
from mova.bench.run import report
from mova.bench.sizes import Original, Size
from mova.model import Model, read_model
from mova.spec import ClipSpec
from tests.standin import StandIn

CPU = torch.device("cpu")
SMALL = Size("small", ClipSpec(height=32, width=48, num_frames=5), Original(1, 1))
LARGE = Size("large", ClipSpec(height=32, width=48, num_frames=9), Original(1, 1))


@pytest.fixture(scope="module")
def model(playground: Path) -> Model:
    return read_model(playground)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is measured for long, on one thread, and formulas stand for compiled ones."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(fused, "_compiled", lambda formula, *_variant: formula)
    monkeypatch.setattr(ceilings, "COPIED", 1 << 10)
    monkeypatch.setattr(ceilings, "LASTING", 0.0)
    yield
    torch.set_num_threads(threads)
    assert not fused._Choice.devices


def trial(model: Model, seconds: float = 1e6) -> Trial:
    return Trial(model, CPU, lambda _device: StandIn(), seconds=seconds, sizes=(SMALL, LARGE))


def test_every_part_is_measured(model: Model) -> None:
    results = list(trial(model).run())
    absent = {result.part for result in results if isinstance(result, Trouble)}
    assert absent <= {"attention, cuDNN", "attention, memory-efficient", "attention, flash"}, results
    found = {f"{result.name}: {result.subject}" for result in results if isinstance(result, Figure)}
    assert {
        "small, a step: resident",
        "small, a step: resident, compiled",
        "small, a step: resident, efficiency",
        "small, a step: streamed",
        "small, a step: streamed / resident",
        "large, a step: resident",
        "large, pictures of 9 frames: whole",
    } <= found


def test_a_step_that_is_wrong_is_not_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(step: stepping.Step) -> stepping.Predictions:
        return [(video + 1, audio) for video, audio in right(step)]

    right = stepping.Step.plain
    monkeypatch.setattr(stepping.Step, "plain", wrong)
    results = list(trial(model).run())
    assert not any(isinstance(result, Figure) and "a step" in result.name for result in results)
    assert "off by" in reason(results, "small resident")
    assert reason(results, "small streamed") == "LookupError: A part before it failed."


def test_a_streamed_step_must_be_equal_to_the_last_bit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stepping.Step.__call__

    def nudged(step: stepping.Step, lend: stepping.Lend = stepping.keep) -> stepping.Predictions:
        result = whole(step, lend)
        if lend is not stepping.keep:
            result[0][0].view(-1)[0] += 1
        return result

    monkeypatch.setattr(stepping.Step, "__call__", nudged)
    results = list(trial(model).run())
    assert "to the last bit" in reason(results, "small streamed")
    assert not any(isinstance(result, Figure) and result.subject.startswith("streamed") for result in results)


def test_a_card_too_small_for_an_expert_is_measured_streaming(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(trial: Trial) -> Iterator[Figure]:
        raise torch.OutOfMemoryError("CUDA out of memory.")
        yield

    monkeypatch.setattr(Trial, "resident_step", no_room)
    results = list(trial(model).run())
    found = {result.subject for result in results if isinstance(result, Figure) and "a step" in result.name}
    assert "streamed" in found
    assert not any("resident" in subject for subject in found)


def test_when_the_time_is_over_nothing_more_begins(model: Model) -> None:
    results = list(trial(model, seconds=0).run())
    assert all(isinstance(result, Trouble) and "--minutes" in result.reason for result in results)


def test_a_kernel_that_computes_wrongly_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "attend", lambda query, _heard, _backend: query)
    with pytest.raises(ArithmeticError, match="off by"):
        ceilings.attention(CPU, torch.float32, "torch's choice", (8, 2, 16))


def test_a_part_that_fails_is_told_and_others_go_on() -> None:
    def fails() -> Iterator[Figure]:
        yield Figure("A", "one", "engine", 1)
        raise RuntimeError("no such\n kernel")

    results = [*guarded("A", "two", fails), Figure("B", "three", "engine", 3)]
    assert results[1] == Trouble("A", "two", "RuntimeError: no such kernel")
    assert "two: not measured. RuntimeError: no such kernel" in lines(results)


def test_the_table_says_whether_targets_are_met() -> None:
    figures = [
        Figure("A section", "copies", "original", 5300),
        Figure("A section", "copies", "engine", 40, at_most=45),
        Figure("A section", "efficiency", "engine", 0.5, at_least=0.93),
    ]
    told = list(lines(figures))
    assert told[0] == "A section"
    assert [line.split() for line in told[2:]] == [
        ["copies", "original", "5,300"],
        ["engine", "40", "<=", "45", "ok"],
        ["efficiency", "engine", "0.5", ">=", "0.93", "NOT", "MET"],
    ]


def test_json_has_what_the_table_has(tmp_path: Path) -> None:
    results: list[Result] = [Figure("A", "copies", "engine", 40, at_most=45), Trouble("A", "rest", "gone")]
    write_json(results, tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [(figure["value"], figure["met"]) for figure in read["figures"]] == [(40, True)]
    assert read["troubles"] == [{"section": "A", "part": "rest", "reason": "gone"}]


def test_what_was_measured_before_it_was_broken_off_is_kept(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Result]:
        yield Figure("A", "copies", "engine", 40)
        raise KeyboardInterrupt

    file = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        list(report(interrupted(), Namespace(json=file)))
    assert len(json.loads(file.read_text(encoding="utf-8"))["figures"]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes minutes where there is a device")
def test_the_command_says_that_there_is_no_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "--part", "measured", "--json", str(tmp_path / "bench.json")]) == 0
    assert "There is no CUDA device here." in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["figures"] == []


def reason(results: list[Result], part: str) -> str:
    return next(result.reason for result in results if isinstance(result, Trouble) and result.part == part)
