"""Who may import whom: the rules of CONTRIBUTING.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.models import provider_names

ROOT = Path(__file__).parent.parent
FILES = [file for folder in ("app", "agents", "mova", "pages") for file in sorted((ROOT / folder).rglob("*.py"))]
WITH_STREAMLIT = {
    f"app/{name}.py"
    for name in (
        "__main__",
        "cards",
        "casting",
        "desk",
        "failures",
        "frames",
        "language",
        "main",
        "plandesk",
        "plantable",
        "server",
        "serverdesk",
        "sounddesk",
        "timeline",
        "ui",
        "wording",
    )
}
WITH_TORCH = {"agents/providers/local.py"}  # and mova/
LIGHT = (  # of mova, what the studio may import anywhere
    *("mova.spec", "mova.layout", "mova.picture"),
    *("mova.plan", "mova.reasons", "mova.presets", "mova.resources", "mova.model", "mova.released"),
    *("mova.lora_files", "mova.lora_choice"),
)


def imports(file: Path, top_level_only: bool = False) -> Iterator[str]:
    """The dotted names that a file imports at run time (not those for type checkers)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden = {id(inner) for node in ast.walk(tree) if _for_types(node) for inner in ast.walk(node)}
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_only_what_it_may(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    part = name.split("/")[0]
    for imported in imports(file):
        package = imported.split(".")[0]
        if package in ("app", "agents", "mova", "pages"):
            assert package in {"pages": ("app", "mova"), "app": ("app", "agents", "mova")}.get(part, (part,)), imported
        if package == "mova" and part != "mova" and not imported.startswith(tuple(f"{name}." for name in LIGHT)):
            assert name == "app/engines.py", imported
            assert imported not in imports(file, top_level_only=True), f"{imported} belongs inside a function"
        if package == "streamlit":
            assert part == "pages" or name in WITH_STREAMLIT, imported
        if package == "torch":
            assert part == "mova" or name in WITH_TORCH, imported


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("app.worker", ("torch", "streamlit", "av")),
        ("app.supervisor", ("torch", "streamlit")),
        ("app.server", ("torch", "av")),
        *(
            (f"agents.providers.{name}", ("torch", "transformers", "openai", "google.genai"))
            for name in provider_names()
        ),
        ("app.ui", ("torch", "av")),
        *((module, ("torch", "diffusers", "transformers")) for module in LIGHT),
    ],
)
def test_stays_light(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout.strip() == "[]"


def test_no_standard_name_is_taken() -> None:
    """Streamlit puts app/ first on sys.path."""
    assert not {file.stem for file in (ROOT / "app").glob("*.py")} & (sys.stdlib_module_names - {"__main__"})


def test_every_file_has_its_line_in_contributing() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = [f"`{parent}/`" for parent in ("agents/builtin", "agents/local", "agents/providers", "agents/prompts")]
    assert all(folder in told for folder in folders)
    names = [file.relative_to(ROOT).as_posix() for file in FILES if file.name != "__init__.py"]
    rest = [name for name in names if f"`{Path(name).parent.as_posix()}/`" not in folders]
    assert [name for name in rest if f"`{name}`" not in told] == []
