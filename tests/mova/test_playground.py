import hashlib
from pathlib import Path

from mova.layout import inspect_checkpoint
from mova.playground import make_playground


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_is_made_the_same_every_time(playground: Path, tmp_path: Path) -> None:
    assert digests(make_playground(tmp_path / "again")) == digests(playground)


def test_it_is_small_complete_and_says_what_it_is(playground: Path) -> None:
    info = inspect_checkpoint(playground)
    assert info.playground
    assert info.problems == ()
    assert sum(component.bytes for component in info.components) < 15e6
    assert {(width * 9 == height * 16) or (width * 16 == height * 9) for width, height in info.sizes} == {True}


def test_what_is_there_is_left_alone(playground: Path) -> None:
    before = (playground / "model_index.json").stat().st_mtime_ns
    assert make_playground(playground) == playground
    assert (playground / "model_index.json").stat().st_mtime_ns == before


def test_the_rest_of_an_attempt_that_was_cut_off_is_replaced(playground: Path, tmp_path: Path) -> None:
    (tmp_path / "cut" / "video_dit").mkdir(parents=True)
    (tmp_path / "cut" / "video_dit" / "config.json").write_text("{}")
    assert digests(make_playground(tmp_path / "cut")) == digests(playground)
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
