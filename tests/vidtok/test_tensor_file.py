"""Safetensors files that the program writes: permissions, content, and what an error leaves."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidtok.tensor_file import write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros((), dtype=torch.float16)}


def test_others_can_read_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(TENSORS, tmp_path / "w.safetensors", {"of": "a test"})
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(found[name].equal(tensor) for name, tensor in TENSORS.items())


def test_a_file_is_replaced_or_stays_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    write_tensors(TENSORS, target, {})
    with pytest.raises(ValueError, match="non contiguous"):
        write_tensors({"a": torch.zeros(2, 3).T}, target, {})
    assert load_file(target).keys() == TENSORS.keys()
    write_tensors({"c": torch.ones(2)}, target, {})
    assert load_file(target).keys() == {"c"}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "w.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        write_tensors(TENSORS, target, {})
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{target}'"
