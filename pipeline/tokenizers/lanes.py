"""The way of frames to a device and of results back, while the device computes.

    frames ─► pinned buffer ─► copy stream ─► network ─► pinned results ─► cells

A host that works with a GPU only queues work. A `StreamedLane` keeps the queue filled: the frames
of a batch are on their way before the results of the batch in front of it are read. On a CPU every
call has done its work when it returns, and a `Lane` copies at once.
"""

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SLOTS: Final = 3
"""Number of pinned buffers for frames. A buffer is free once its copy is done, long before the
network is; two calls fill one each while a third is copied."""

Wait = Callable[[], None]
"""Returns when a copy is done."""


class Lane:
    """The lane of a CPU.

    Attributes:
        network: held while a network's work is queued. Networks of one device share its memory, and
            calls of one network must not mix.
        ahead: number of batches that are queued beyond the one whose results are read.
    """

    ahead = 0

    def __init__(self) -> None:
        self.network = threading.Lock()

    def send(self, frames: NDArray[Any], batch: int) -> Tensor:
        """Return frames on the device, filled up with zeros to a batch.

        Args:
            frames: [N, T, H, W, 3], uint8 or float32.
            batch: B ≥ N.

        Returns:
            [B, T, H, W, 3] of the same type, for the work that is queued next.
        """
        filled = np.zeros((batch, *frames.shape[1:]), frames.dtype)
        filled[: len(frames)] = frames
        return torch.from_numpy(filled)

    def fetch(self, made: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Begin to copy what the queued work makes; return a call that waits and gives it."""
        return lambda: list(made)


class Streams(Protocol):
    """A device that copies beside its computing."""

    def pinned(self, size: int) -> Tensor:
        """Return uint8 memory of the host that the device copies from by itself."""
        ...

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        """Begin to copy to the device; what is queued from now on computes with the copy."""
        ...

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        """Queue copies of contiguous tensors to the host."""
        ...


class CudaStreams:
    """A GPU: frames are copied on a stream of their own, everything else on the current stream."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def pinned(self, size: int) -> Tensor:
        """Return page-locked memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        """Copy on the copy stream, for whose event the current stream waits."""
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            sent = host.to(self._device, non_blocking=True)
            done = _recorded(self._copies)
        computing.wait_event(done)
        sent.record_stream(computing)  # or its memory is reused once the copy stream is done
        return sent, done.synchronize

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        """Copy on the current stream, behind the work that makes the tensors."""
        computing = torch.cuda.current_stream(self._device)
        hosts = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in made]
        for host, tensor in zip(hosts, made, strict=True):
            host.copy_(tensor, non_blocking=True)
        return hosts, _recorded(computing).synchronize


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Return an event behind the work of a stream; who waits for it sleeps."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


@dataclass(slots=True)
class _Slot:
    buffer: Tensor
    copied: Wait = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)


class StreamedLane(Lane):
    """The lane of a device with `Streams`. Several threads can use it.

    Args:
        streams: the device.
        slots: number of pinned buffers for frames, which are used in turn.
    """

    ahead = 1

    def __init__(self, streams: Streams, slots: int = _SLOTS) -> None:
        super().__init__()
        self._streams = streams
        self._ring = itertools.cycle([_Slot(streams.pinned(0)) for _ in range(slots)])

    def send(self, frames: NDArray[Any], batch: int) -> Tensor:
        """Return frames that are on their way, as `Lane.send`."""
        shape = (batch, *frames.shape[1:])
        size = math.prod(shape) * frames.itemsize
        slot = next(self._ring)
        with slot.lock:
            slot.copied()  # until then the device reads the buffer
            if len(slot.buffer) < size:
                slot.buffer = self._streams.pinned(size)
            dtype = torch.uint8 if frames.dtype == np.uint8 else torch.float32
            host = slot.buffer[:size].view(dtype).view(shape)
            filled = host.numpy()
            filled[: len(frames)] = frames
            filled[len(frames) :] = 0
            sent, slot.copied = self._streams.upload(host)
        return sent

    def fetch(self, made: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Queue the copies behind the work that was queued last."""
        hosts, done = self._streams.download([tensor.contiguous() for tensor in made])

        def wait() -> list[Tensor]:
            done()
            return hosts

        return wait


@cache
def lane_to(device: str) -> Lane:
    """Return this process's lane to a device: `cpu` or `cuda`."""
    return Lane() if torch.device(device).type == "cpu" else StreamedLane(CudaStreams(device))
