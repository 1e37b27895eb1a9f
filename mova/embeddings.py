"""Prompt embeddings kept on disk, so that the text encoder isn't opened for a prompt that was read before."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mova.memory import device_name
from mova.spec import MAX_PROMPT_TOKENS
from mova.text import clean_prompt, encode_prompt, token_count

logger = logging.getLogger(__name__)

LIMIT = 2_000_000_000  # bytes; a prompt of 100 tokens takes 0.8 MB with the released encoder
ENTRY, UNFINISHED = ".safetensors", ".part"
ABANDONED = 3600  # seconds after which an unfinished file is nobody's
FORMAT = "1"
READ_WHOLE = 100_000_000  # bytes; larger files, which are weights, are told apart by size and time alone


class TextCache:
    """Rows of prompt embeddings by key, each a file of its own in ``folder``; the prompts themselves aren't in it.

    Files appear whole, and what is damaged counts as absent. Several processes may use one folder. When there are
    more than ``limit`` bytes, those that weren't used for longest go. Whatever the disk refuses is said once in the
    log, and then goes without.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit
        self._complained = False

    def get(self, key: str) -> Tensor | None:
        """The rows [n, d_model] that were put under ``key``, on the CPU; None if there are none."""
        file = self._file(key)
        try:
            stored = load(file.read_bytes())
        except (FileNotFoundError, SafetensorError, LookupError):
            return None
        except OSError as error:
            self._complain(error)
            return None
        rows, checksum = stored.get("rows"), stored.get("checksum")
        if rows is None or checksum is None or not torch.equal(checksum, _checksum(rows)):
            return None
        with suppress(OSError):  # a folder that can only be read: its files never go either
            os.utime(file)
        return rows

    def put(self, key: str, rows: Tensor) -> None:
        """Keep ``rows`` [n, d_model] under ``key``."""
        rows = rows.detach().cpu().contiguous()
        content = save({"rows": rows, "checksum": _checksum(rows)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_whole(self._file(key), content)
            self._make_room()
        except OSError as error:
            self._complain(error)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{ENTRY}"

    def _make_room(self) -> None:
        """Let the files go that weren't used for longest, and what a process that ended early left behind."""
        now = time.time()
        entries, total = [], 0
        for file, about in _files(self.folder):
            if file.suffix == ENTRY:
                entries.append((about.st_mtime_ns, about.st_size, file))
                total += about.st_size
            elif file.suffix == UNFINISHED and now - about.st_mtime > ABANDONED:
                file.unlink(missing_ok=True)
        for _, size, file in sorted(entries):
            if total <= self.limit:
                break
            file.unlink(missing_ok=True)
            total -= size

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            logger.warning("Prompt embeddings can't be kept in %s (%s); prompts are read anew.", self.folder, error)
        self._complained = True


@torch.no_grad()
def embed_prompts(
    tokenizer: Any,
    open_encoder: Callable[[], AbstractContextManager[nn.Module]],
    prompts: Sequence[str],
    *,
    reader: str = "",
    cache: TextCache | None = None,
    device: torch.device | str = "cpu",
    max_sequence_length: int = MAX_PROMPT_TOKENS,
) -> Tensor:
    """What ``encode_prompt`` gives, [len(prompts), max_sequence_length, d_model] on ``device``, each prompt read once.

    A prompt is always encoded alone, since the company of others can change the last bits; so it is the same from the
    cache, in a list and by itself.

    Args:
        tokenizer: the checkpoint's.
        open_encoder: lends the text encoder on ``device``; called only if a prompt isn't in ``cache``.
        prompts: as the creator wrote them.
        reader: what besides the prompt the embeddings depend on, see ``reader_identity``.
        cache: where they are kept; None: nowhere.
        device: where to encode, and where the result is.
        max_sequence_length: tokens of a prompt at most, and rows of the result.
    """
    wanted = {clean_prompt(prompt): prompt for prompt in prompts}
    keys = {cleaned: _key(reader, cleaned, max_sequence_length) for cleaned in wanted}
    rows: dict[str, Tensor] = {}
    if cache is not None:
        found = {cleaned: cache.get(key) for cleaned, key in keys.items()}
        rows = {cleaned: kept.to(device) for cleaned, kept in found.items() if kept is not None}
    if missing := [cleaned for cleaned in wanted if cleaned not in rows]:
        with open_encoder() as text_encoder:
            for cleaned in missing:
                prompt = wanted[cleaned]
                (embeds,) = encode_prompt(
                    tokenizer, text_encoder, [prompt], device=device, max_sequence_length=max_sequence_length
                )
                rows[cleaned] = embeds[: token_count(tokenizer, prompt)]
                if cache is not None:
                    cache.put(keys[cleaned], rows[cleaned])
    return torch.stack([_padded(rows[clean_prompt(prompt)], max_sequence_length) for prompt in prompts])


def reader_identity(
    checkpoint: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    parts: Sequence[str] = ("tokenizer", "text_encoder"),
) -> str:
    """Everything but the prompt that embeddings depend on, as a hash.

    ``parts`` of the folder ``checkpoint``, tokenizer and text encoder (small files by what they hold; weights by
    name, size and time of writing), the ``dtype`` that they are loaded in (None: as stored), the device and the
    software.
    """
    software = f"torch {torch.__version__}, transformers {transformers.__version__}"
    digest = hashlib.sha256(f"{FORMAT}; {software}; {device_name(device)}; {dtype}".encode())
    for part in parts:
        for file, about in sorted(_files(checkpoint / part)):
            small = about.st_size <= READ_WHOLE
            mark = hashlib.sha256(file.read_bytes()).hexdigest() if small else str(about.st_mtime_ns)
            digest.update(f"; {part}/{file.name} {about.st_size} {mark}".encode())
    return digest.hexdigest()


def _key(reader: str, cleaned: str, max_sequence_length: int) -> str:
    return hashlib.sha256(f"{reader}\n{max_sequence_length}\n{cleaned}".encode()).hexdigest()


def _padded(rows: Tensor, length: int) -> Tensor:
    return torch.cat((rows, rows.new_zeros(length - rows.shape[0], rows.shape[1])))


def _checksum(rows: Tensor) -> Tensor:
    digest = hashlib.sha256(f"{rows.dtype} {tuple(rows.shape)}".encode())
    digest.update(rows.view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _write_whole(file: Path, content: bytes) -> None:
    """``file`` with all of ``content``, or as it was."""
    descriptor, name = tempfile.mkstemp(suffix=UNFINISHED, prefix=f"{file.stem}-", dir=file.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
        unfinished.replace(file)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of ``folder`` that are there when it is their turn."""
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            yield file, file.stat()
