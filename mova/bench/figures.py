"""Figures and their targets, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One number: of whom (``subject``), in which ``section`` of the table, and what it should be.

    ``at_most`` and ``at_least`` are targets; None is none. ``note`` says what belongs beside the number.
    """

    section: str
    name: str
    subject: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        below = self.at_most is None or self.value <= self.at_most
        return below and (self.at_least is None or self.value >= self.at_least)


@dataclass(frozen=True)
class Trouble:
    """A part that could not be measured, and why."""

    section: str
    part: str
    reason: str


Result = Figure | Trouble


def guarded(section: str, part: str, work: Callable[[], Iterable[Result]]) -> Iterator[Result]:
    """What ``work`` yields; what goes wrong in it is told in the table, and the other parts go on."""
    try:
        yield from work()
    except Exception as error:  # noqa: BLE001  of devices that nobody here has seen, told in the table
        yield Trouble(section, part, f"{type(error).__name__}: {' '.join(str(error).split())}")


def lines(results: Iterable[Result]) -> Iterator[str]:
    """The table, line by line as results come: a block a section, a line a figure and subject, targets beside them."""
    section = name = ""
    for result in results:
        if result.section != section:
            yield from (("",) if section else ())
            yield from (result.section, "-" * len(result.section))
            section, name = result.section, ""
        if isinstance(result, Trouble):
            yield f"{result.part}: not measured. {result.reason}"
            continue
        yield _line(result.name if result.name != name else "", result).rstrip()
        name = result.name


def write_json(results: Iterable[Result], path: Path) -> None:
    """The same as JSON: {"figures": [...], "troubles": [...]}."""
    figures, troubles = [], []
    for result in results:
        if isinstance(result, Figure):
            figures.append({**asdict(result), "met": result.met})
        else:
            troubles.append(asdict(result))
    text = json.dumps({"figures": figures, "troubles": troubles}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _line(title: str, figure: Figure) -> str:
    verdict = {None: "", True: "ok", False: "NOT MET"}[figure.met]
    value = f"{_told(figure.value)} {figure.unit}"
    return f"{title:<44}{figure.subject:<30}{value:>16}  {_target(figure):<14}{verdict:<9}{figure.note}"


def _target(figure: Figure) -> str:
    bounds = ((figure.at_most, "<="), (figure.at_least, ">="))
    return " ".join(f"{sign} {_told(bound)}" for bound, sign in bounds if bound is not None)


def _told(value: float) -> str:
    """Four digits, or a whole number as it is."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    return f"{value:,.4g}"
