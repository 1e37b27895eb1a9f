import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mova.checkpoint import load_component, load_tokenizer
from mova.embeddings import TextCache, embed_prompts, reader_identity
from mova.text import encode_prompt

CPU = torch.device("cpu")
PROMPTS = ["the red ball", "", "Gulls cry, waves crash & break", "the red ball"]


class Encoder:
    """Lends the playground's text encoder and counts how often it was asked to."""

    def __init__(self, playground: Path, dtype: torch.dtype | None = None) -> None:
        self.tokenizer = load_tokenizer(playground)
        self.module = load_component(playground, "text_encoder", dtype)
        self.opened = 0

    @contextmanager
    def open(self) -> Iterator[nn.Module]:
        self.opened += 1
        yield self.module

    def embed(self, prompts: list[str], cache: TextCache | None, **settings: Any) -> Tensor:
        return embed_prompts(self.tokenizer, self.open, prompts, cache=cache, **{"reader": "a reader", **settings})


@pytest.fixture
def encoder(playground: Path) -> Encoder:
    return Encoder(playground)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache(tmp_path / "prompts")


def files(cache: TextCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


def use_at(file: Path, seconds: float) -> None:
    os.utime(file, (seconds, seconds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_the_cache_alone_or_in_company_a_prompt_is_bit_for_bit_the_same(
    playground: Path, cache: TextCache, dtype: torch.dtype
) -> None:
    encoder = Encoder(playground, dtype)
    made = encoder.embed(PROMPTS, cache)
    assert encoder.opened == 1
    kept = encoder.embed(PROMPTS, cache)
    assert encoder.opened == 1
    assert made.dtype is dtype
    assert torch.equal(made.view(torch.uint8), kept.view(torch.uint8))
    for index, prompt in enumerate(PROMPTS):
        assert torch.equal(made[index], encode_prompt(encoder.tokenizer, encoder.module, [prompt])[0])
        assert torch.equal(made[index], encoder.embed([prompt], None)[0])


def test_without_a_cache_the_encoder_is_opened_once_for_all(encoder: Encoder) -> None:
    encoder.embed(PROMPTS, None)
    assert encoder.opened == 1


def test_only_what_is_missing_is_encoded(encoder: Encoder, cache: TextCache) -> None:
    encoder.embed(["red"], cache)
    read: list[int] = []
    hook = encoder.module.register_forward_pre_hook(lambda _module, _args: read.append(1))
    encoder.embed(["red", "blue", "  red ", "blue"], cache)
    hook.remove()
    assert len(read) == 1
    assert len(files(cache)) == 2


def test_only_the_prompts_own_rows_are_stored_and_never_its_words(encoder: Encoder, cache: TextCache) -> None:
    encoder.embed(["the red ball"], cache)
    (file,) = files(cache)
    assert file.stat().st_size < 1000 + 4 * 4 * encoder.module.config.d_model
    assert b"ball" not in file.read_bytes()
    assert "ball" not in file.name


def test_whatever_changes_the_embeddings_is_another_entry(encoder: Encoder, cache: TextCache) -> None:
    encoder.embed(["red"], cache)
    encoder.embed(["red"], cache, reader="another")
    short = encoder.embed(["red"], cache, max_sequence_length=9)
    assert short.shape[1] == 9
    assert encoder.opened == 3
    assert len(files(cache)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_made_anew(encoder: Encoder, cache: TextCache, damage: str) -> None:
    made = encoder.embed(["red"], cache)
    (file,) = files(cache)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    content = {"cut": whole[:-8], "flipped": bytes(flipped), "empty": b"", "other": b"no tensors at all"}[damage]
    file.write_bytes(content)
    assert torch.equal(encoder.embed(["red"], cache), made)
    assert encoder.opened == 2
    assert file.read_bytes() == whole


def test_the_longest_unused_go_when_there_is_too_much(tmp_path: Path) -> None:
    rows = torch.zeros(10, 100)
    TextCache(tmp_path).put("a", rows)
    size = files(TextCache(tmp_path))[0].stat().st_size
    cache = TextCache(tmp_path, limit=3 * size)
    for index, key in enumerate("abc"):
        cache.put(key, rows)
        use_at(tmp_path / f"{key}.safetensors", 1000 + index)
    assert cache.get("a") is not None  # used again: now "b" is the oldest
    cache.put("d", rows)
    assert [file.stem for file in files(cache)] == ["a", "c", "d"]
    TextCache(tmp_path, limit=0).put("e", rows)
    assert files(cache) == []


def test_what_was_left_unfinished_goes_and_what_is_being_written_stays(cache: TextCache) -> None:
    cache.put("a", torch.zeros(1, 2))
    abandoned, current = cache.folder / "b-1.part", cache.folder / "b-2.part"
    abandoned.write_bytes(b"half")
    current.write_bytes(b"half")
    use_at(abandoned, 1000)
    cache.put("c", torch.zeros(1, 2))
    assert [file.name for file in files(cache)] == ["a.safetensors", "b-2.part", "c.safetensors"]


def test_a_folder_that_cannot_be_written_is_said_once(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = TextCache(tmp_path / "file" / "prompts")
    with caplog.at_level(logging.WARNING):
        made = encoder.embed(["red", "blue"], cache)
        again = encoder.embed(["red", "blue"], cache)
    assert torch.equal(made, again)
    assert encoder.opened == 2
    (record,) = caplog.records
    assert str(cache.folder) in record.message
    assert "red" not in record.message


def test_a_full_disk_leaves_nothing_half(
    encoder: Encoder, cache: TextCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with caplog.at_level(logging.WARNING):
        made = encoder.embed(["red"], cache)
    assert torch.equal(made, encoder.embed(["red"], None))
    assert files(cache) == []
    assert "No space left" in caplog.text


def test_many_at_once_see_whole_files_only(tmp_path: Path) -> None:
    rows = {key: torch.full((64, 64), float(index)) for index, key in enumerate("abcdef")}
    limit = 4 * rows["a"].numel() * 4
    wrong: list[str] = []

    def work() -> None:
        cache = TextCache(tmp_path, limit)
        for _ in range(15):
            for key, expected in rows.items():
                cache.put(key, expected)
                found = cache.get(key)
                if found is not None and not torch.equal(found, expected):
                    wrong.append(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(file.suffix == ".safetensors" for file in tmp_path.iterdir())


def test_the_reader_is_known_by_its_files_dtype_and_device(playground: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for part in ("tokenizer", "text_encoder"):
        (copy / part).mkdir(parents=True)
        for file in (playground / part).iterdir():
            (copy / part / file.name).write_bytes(file.read_bytes())
    known = reader_identity(playground, None, CPU)
    assert known == reader_identity(copy, None, CPU)
    assert known != reader_identity(copy, torch.bfloat16, CPU)
    config = copy / "text_encoder" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert known != reader_identity(copy, None, CPU)


def test_large_weights_are_known_by_size_and_time(
    playground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mova.embeddings.READ_WHOLE", 100)
    for part in ("tokenizer", "text_encoder"):
        (tmp_path / part).mkdir()
    weights = tmp_path / "text_encoder" / "model.safetensors"
    weights.write_bytes(bytes(1000))
    use_at(weights, 1000)
    known = reader_identity(tmp_path, None, CPU)
    assert known == reader_identity(tmp_path, None, CPU)
    use_at(weights, 2000)
    assert known != reader_identity(tmp_path, None, CPU)
