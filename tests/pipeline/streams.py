"""Devices without a GPU for a `StreamedLane`: what is queued, and what has run, is known."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.tokenizers.lanes import Wait


class RecordedDevice:
    """Does everything at once, and records in which order it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.uploads = self.downloads = 0

    def pinned(self, size: int) -> Tensor:
        return torch.full((size,), 255, dtype=torch.uint8)

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        self.asked.append(f"copy {self.uploads}")
        self.uploads += 1
        return host.clone(), lambda: None

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        number = self.downloads
        self.downloads += 1
        self.asked.append(f"fetch {number}")
        return [tensor.clone() for tensor in made], lambda: self.asked.append(f"read {number}")


class Operation:
    """Something that runs once, behind others."""

    def __init__(self, work: Callable[[], object], behind: "Sequence[Operation | None]") -> None:
        self._work = work
        self._behind = behind
        self._over = False

    def run(self) -> None:
        if self._over:
            return
        for other in self._behind:
            if other is not None:
                other.run()
        self._over = True
        self._work()


class LazyDevice:
    """Runs nothing before somebody waits for it, and then no more than it must."""

    def __init__(self) -> None:
        self._copies: Operation | None = None
        """Last operation of the copy stream."""
        self._computing: Operation | None = None
        """Last operation of the stream that computes."""

    def pinned(self, size: int) -> Tensor:
        return torch.full((size,), 255, dtype=torch.uint8)

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        sent = torch.full_like(host, 255)
        self._copies = copy = Operation(lambda: sent.copy_(host), [self._copies])
        self._computing = Operation(lambda: None, [self._computing, copy])
        return sent, copy.run

    def compute(self, work: Callable[[], object]) -> None:
        self._computing = Operation(work, [self._computing])

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        hosts = [torch.full_like(tensor, -1) for tensor in made]

        def copy() -> None:
            for host, tensor in zip(hosts, made, strict=True):
                host.copy_(tensor)

        self.compute(copy)
        assert self._computing is not None
        return hosts, self._computing.run
