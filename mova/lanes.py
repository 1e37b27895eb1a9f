"""The device as a stream of weights sees it: memory there, pinned memory here, copies and their order."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

Event = Any  # what a lane hands out for others to wait for
PORTABLE = 1  # cudaHostRegisterPortable: pinned for every device


class Lane(Protocol):
    """What a device must be able to do. Copies run one after the other, beside the computing.

    ``mark`` and ``wait`` are called by the thread that computes and return at once; the others by threads of their own.
    """

    notes: list[str]  # sentences that the creator should read

    @property
    def pinned_bytes(self) -> int:
        """How many bytes are pinned now."""

    def slot(self, nbytes: int) -> Tensor:
        """New memory on the device, uint8 [nbytes]."""

    def buffer(self, nbytes: int) -> Tensor:
        """New memory on the host, uint8 [nbytes], pinned; plain, with a note, where that is refused."""

    def release(self, memory: Tensor) -> None:
        """Take back what ``slot`` or ``buffer`` gave; no copy is under way in it."""

    def copy(self, slot: Tensor, buffer: Tensor, after: Event | None) -> Event:
        """Begin to copy ``buffer`` into ``slot``, of the same size, once ``after`` has happened; when it is there."""

    def mark(self) -> Event:
        """When everything is done that was given to the device for computing so far."""

    def wait(self, event: Event) -> None:
        """Whatever is given to the device for computing from now on happens after ``event``."""

    def finished(self, event: Event) -> None:
        """Return once ``event`` has happened."""


class CudaLane:
    """The lane to a CUDA device. Made by the thread that computes, on the CUDA stream that it computes on.

    torch's own pinned memory comes in powers of two, half as much again for a model of layers; this is pinned to the
    page.
    """

    def __init__(self, device: torch.device) -> None:
        self.notes: list[str] = []
        self._device = device
        self._computing = torch.cuda.current_stream(device)
        self._copying = torch.cuda.Stream(device)
        self._pinned: dict[int, int] = {}  # address -> bytes

    @property
    def pinned_bytes(self) -> int:
        """How many bytes are pinned now."""
        return sum(self._pinned.values())

    def slot(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] on the device, from what torch keeps for the computing stream."""
        with torch.cuda.stream(self._computing):
            slot = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        # The memory may have been dropped by computing that was given to the device and isn't done.
        self._copying.wait_stream(self._computing)
        return slot

    def buffer(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] on the host, pinned until the device refuses once: then plain, and ``notes`` says so.

        Raises:
            MemoryError: the host has not so much.
        """
        buffer = pages(nbytes)
        if not self.notes:
            self._pin(buffer)
        return buffer

    def release(self, memory: Tensor) -> None:
        """Unpin what is pinned; the memory itself goes with its last tensor."""
        if self._pinned.pop(memory.data_ptr(), None) and (status := self._runtime("Unregister", memory.data_ptr())):
            raise RuntimeError(f"Host memory could not be unpinned (CUDA error {status}).")

    def copy(self, slot: Tensor, buffer: Tensor, after: Event | None) -> Event:
        """Begin to copy, after ``after`` and all earlier copies; when it is there."""
        with torch.cuda.stream(self._copying):
            if after is not None:
                self._copying.wait_event(after)
            slot.copy_(buffer, non_blocking=True)
            # Who waits for it on the host sleeps instead of spinning.
            return self._copying.record_event(torch.cuda.Event(blocking=True))

    def mark(self) -> Event:
        """When everything is done that the computing stream was given so far."""
        return torch.cuda.current_stream(self._device).record_event()

    def wait(self, event: Event) -> None:
        """The computing stream goes on after ``event``; the host doesn't wait."""
        torch.cuda.current_stream(self._device).wait_event(event)

    def finished(self, event: Event) -> None:
        """Return once ``event`` has happened."""
        event.synchronize()

    def _pin(self, buffer: Tensor) -> None:
        nbytes = -(-buffer.numel() // mmap.PAGESIZE) * mmap.PAGESIZE
        status = self._runtime("Register", buffer.data_ptr(), nbytes, PORTABLE)
        if not status:
            self._pinned[buffer.data_ptr()] = nbytes
            return
        self.notes.append(f"Pinned memory was refused (CUDA error {status}), so that weights travel more slowly.")
        self._forget_error()

    def _runtime(self, verb: str, *arguments: int) -> int:
        """The status of cudaHostRegister or cudaHostUnregister, 0 if it succeeded."""
        with torch.cuda.device(self._device):
            return int(getattr(torch.cuda.cudart(), f"cudaHost{verb}")(*arguments))

    def _forget_error(self) -> None:
        """CUDA keeps a refusal as this thread's last error, and torch would report it after its next kernel."""
        with suppress(RuntimeError):  # the refusal, told once more
            torch.ones(1, device=self._device)


def pages(nbytes: int) -> Tensor:
    """Zeros, uint8 [nbytes], from whole pages of memory that nothing else lies in.

    Raises:
        MemoryError: the system has not so much.
    """
    try:
        if sys.platform == "win32":
            memory = mmap.mmap(-1, nbytes)
        else:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"There is no memory for {nbytes} bytes to copy weights from ({error}).") from error
    return torch.frombuffer(memory, dtype=torch.uint8)
