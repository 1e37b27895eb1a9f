"""Plans as text, and as a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mova.__main__ import EXIT_WRONG_INPUT, main
from mova.plan import plan_for
from mova.plan_text import CARDS, plan_lines, plan_table
from mova.released import RELEASED_360P
from mova.resources import Resources
from mova.spec import ClipSpec

GB = 10**9
MACHINE = Resources(CARDS[12], 28 * GB, 32 * GB, 500 * GB, 3e9)
ELSEWHERE = ["plan", "--vram", "12", "--ram", "32", "--card", "RTX 4070"]


def test_a_plan_with_its_arithmetic() -> None:
    plan = plan_for(RELEASED_360P, ClipSpec(), MACHINE)
    first, *rest = plan_lines(plan)
    assert first.startswith("layer on cuda, preset exact: ")
    assert sum(line.startswith(" ") and " + " in line for line in rest) == len(plan.phases)
    assert [line for line in rest if line.startswith("- ")] == [f"- {reason}" for reason in plan.reasons]


def test_the_table_has_a_line_for_each_machine() -> None:
    lines = plan_table().splitlines()
    assert len(lines) == 2 + 8 * 4 * 2 * 2
    assert any("lacks" in line and "fewer-frames" in line for line in lines)
    assert any(line.startswith("  141") and "none" in line for line in lines)


def test_the_command_for_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ELSEWHERE) == 0
    said = capsys.readouterr().out
    assert said.startswith("layer on cuda")
    assert "RTX 4070" in said


def test_the_command_for_a_checkpoint_on_this_machine(playground: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(playground), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("none on cpu")


def test_the_command_says_by_how_much_it_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--vram", "8", "--ram", "32", "--height", "720", "--width", "1280"]) == EXIT_WRONG_INPUT
    said = capsys.readouterr().err
    assert "It doesn't fit by" in said
    assert "640x352" in said


def test_the_command_for_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--table"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == plan_table()


@pytest.mark.parametrize(
    "arguments",
    [["--preset", "magic"], ["--offload", "often"], ["--dtype", "float16"], ["--num-frames", "6"], ["/nowhere"]],
)
def test_what_can_not_be_planned(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["plan", *arguments])
    except SystemExit as exit_:  # argparse's own
        status = int(str(exit_))
    assert status == EXIT_WRONG_INPUT
    assert capsys.readouterr().err
