from __future__ import annotations

import json
from pathlib import Path

from app.checkpoints import find_checkpoints, identify, playground_path
from mova.layout import COMPONENTS, PLAYGROUND_NAME


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({name: list(pair) for name, pair in COMPONENTS.items()}))
    return folder


def test_with_nothing_there_is_the_playground(tmp_path: Path) -> None:
    (playground,) = find_checkpoints(tmp_path)
    assert playground.playground
    assert not playground.problems
    assert playground.path == playground_path(tmp_path)


def test_the_playground_comes_last_however_it_is_named(tmp_path: Path) -> None:
    put(playground_path(tmp_path))
    zebra = put(tmp_path / "checkpoints" / "zebra")
    named = put(tmp_path / "elsewhere" / "MOVA-720p")
    assert [info.path for info in find_checkpoints(tmp_path, named)] == [named, zebra, playground_path(tmp_path)]
    assert [info.path for info in find_checkpoints(tmp_path, playground_path(tmp_path))][-1] == playground_path(
        tmp_path
    )


def test_a_folder_of_checkpoints_can_be_named(tmp_path: Path) -> None:
    one, two = put(tmp_path / "models" / "one"), put(tmp_path / "models" / "two")
    assert [info.path for info in find_checkpoints(tmp_path / "data", tmp_path / "models")][:2] == [one, two]


def test_a_checkpoint_that_is_named_and_not_there_is_listed_with_its_problem(tmp_path: Path) -> None:
    missing, playground = find_checkpoints(tmp_path, tmp_path / "nowhere")
    assert "nowhere is not a folder" in missing.problems[0]
    assert playground.name == PLAYGROUND_NAME


def test_one_found_twice_is_listed_once(tmp_path: Path) -> None:
    found = put(tmp_path / "checkpoints" / "one")
    assert [info.path for info in find_checkpoints(tmp_path, found)].count(found) == 1


def test_an_incomplete_one_says_so(tmp_path: Path) -> None:
    put(tmp_path / "checkpoints" / "half")
    assert any("is missing" in problem for problem in find_checkpoints(tmp_path)[0].problems)


def test_weights_have_one_name_wherever_they_lie(tmp_path: Path) -> None:
    one, two = put(tmp_path / "one"), put(tmp_path / "two")
    assert identify(one) == identify(two)
    (two / "vae.safetensors").write_bytes(b"x")
    assert identify(one) != identify(two)
    (one / "vae.safetensors").write_bytes(b"xy")
    assert identify(one) != identify(two)
