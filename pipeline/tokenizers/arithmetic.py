"""Settings of torch that every process with a network shares."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_arithmetic(threads: int | None = None) -> None:
    """Turn TensorFloat-32 off, so that `float32` means float32, and set the number of CPU threads.

    TensorFloat-32 is torch's default in convolutions. With it, about one code index in a hundred
    differs.

    Args:
        threads: number of CPU threads; None leaves it as it is.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def job_arithmetic(threads: int | None) -> Iterator[None]:
    """Compute as the job's processes do, and restore the number of CPU threads afterwards."""
    before = torch.get_num_threads()
    set_arithmetic(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
