"""`float32` means float32 in every process with a network."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.tokenizers.arithmetic import job_arithmetic, set_arithmetic


@pytest.fixture(autouse=True)
def _as_torch_begins() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.set_num_threads(threads)
    set_arithmetic()


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tensorfloat_is_off_and_threads_are_set() -> None:
    before = torch.get_num_threads()
    set_arithmetic()
    assert (tf32(), torch.get_num_threads()) == ((False, False), before)
    set_arithmetic(before + 1)
    assert torch.get_num_threads() == before + 1


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with job_arithmetic(before + 1):
        assert (tf32(), torch.get_num_threads()) == ((False, False), before + 1)
    assert torch.get_num_threads() == before
    with job_arithmetic(None):
        assert torch.get_num_threads() == before
