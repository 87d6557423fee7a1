"""A checkpoint is complete or not there; on disks and on object stores."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import DamagedFile, Diverged, StoreError
from pipeline.storage.store import Store
from pipeline.training import checkpoints
from pipeline.training.checkpoints import CheckpointWriter


def shared(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((3,), float(step)), "betas": [(0.9, 0.99)]}


def save(store: Store, *steps: int, keep: int = 2) -> None:
    writer = CheckpointWriter(store, keep=keep)
    for step in steps:
        writer.save(step, shared(step), {"clips": {"turn": step}})
    writer.wait()
    writer.close()


def files(store: Store) -> list[str]:
    found = [file.path.removeprefix("checkpoints/") for file in store.files("checkpoints")]
    return sorted(found)


def last_step(store: Store) -> int:
    loaded = checkpoints.load_last(store)
    assert loaded is not None
    return int(loaded.shared["step"])


def test_the_last_of_them_comes_back(store: Store) -> None:
    assert checkpoints.load_last(store) is None
    save(store, 1, 2, 10)
    loaded = checkpoints.load_last(store)
    assert loaded is not None
    assert loaded.shared["step"] == 10
    assert loaded.shared["betas"] == [(0.9, 0.99)]
    assert torch.equal(loaded.shared["weights"], torch.full((3,), 10.0))
    assert [own["clips"] for own in loaded.ranks] == [{"turn": 10}]
    assert files(store) == ["00000002.pt", "00000010.pt"]


class Gated(Store):
    """A store whose writes wait for a gate, and that may end them in an error."""

    gate: threading.Event
    fails = False

    def write(self, path: str, data: bytes) -> None:
        assert self.gate.wait(60)
        if self.fails:
            raise StoreError("the disk is full")
        super().write(path, data)


def test_training_continues_while_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gated, "gate", threading.Event(), raising=False)
    writer = CheckpointWriter(Gated(str(tmp_path)), keep=9)
    state = shared(1)
    writer.save(1, state, {})
    state["weights"] += 7  # a step, before anything is written
    assert files(Store(str(tmp_path))) == []
    Gated.gate.set()
    writer.save(2, shared(2), {})  # waits for the first
    assert "00000001.pt" in files(Store(str(tmp_path)))
    writer.wait()
    (tmp_path / "checkpoints/00000002.pt").unlink()
    loaded = checkpoints.load_last(Store(str(tmp_path)))
    assert loaded is not None
    assert torch.equal(loaded.shared["weights"], torch.full((3,), 1.0))
    writer.close()


def test_an_error_in_writing_comes_with_the_next_checkpoint_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Gated(str(tmp_path))
    monkeypatch.setattr(Gated, "gate", threading.Event(), raising=False)
    Gated.gate.set()
    save(store, 1)
    monkeypatch.setattr(Gated, "fails", True)
    says = "checkpoint of batch 2 cannot be written: the disk is full; repair the output, and run"
    for end in ("next", "end"):
        writer = CheckpointWriter(store, keep=1)
        writer.save(2, shared(2), {})
        with pytest.raises(StoreError, match=says):
            writer.save(3, shared(3), {}) if end == "next" else writer.wait()
        writer.wait()  # it is said once
        writer.close()
    assert last_step(store) == 1


class Killed(Store):
    """A store whose process dies in the middle of a write, which leaves a file behind."""

    def write(self, path: str, data: bytes) -> None:
        staged = self.stage("checkpoints")
        staged.file.write(data[: len(data) // 2])
        staged.file.close()
        raise KeyboardInterrupt


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    save(store, 1)
    writer = CheckpointWriter(store, keep=1)
    writer.save(2, {"network": [torch.tensor([1.0, float("nan")])]}, {})
    with pytest.raises(Diverged, match="batch 2: the weights or their optimizer's state are not"):
        writer.wait()
    writer.close()
    assert last_step(store) == 1


def test_a_kill_in_writing_leaves_the_one_before(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    save(store, 1)
    with pytest.raises(KeyboardInterrupt):
        save(Killed(str(tmp_path)), 2)
    assert len(files(store)) == 2
    assert last_step(store) == 1
    save(store, 3, keep=1)
    assert files(store) == ["00000003.pt"]


@pytest.mark.parametrize("content", ["half", "", "text", {"shared": {}}])
def test_a_damaged_one_is_named_with_what_to_do(
    content: str | dict[str, object], tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    save(store, 1)
    save(store, 2, keep=2)
    last = tmp_path / "checkpoints/00000002.pt"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2] if content == "half" else str(content).encode())
    if isinstance(content, dict):
        torch.save(content, last)
    with pytest.raises(DamagedFile, match=r"00000002\.pt: not a complete .*; delete it, and run"):
        checkpoints.load_last(store)
    last.unlink()
    assert last_step(store) == 1


def test_noise_goes_on_from_where_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    torch.manual_seed(3)
    torch.rand(5)
    save(store, 1)
    expected = torch.rand(4)
    torch.manual_seed(99)
    loaded = checkpoints.load_last(store)
    assert loaded is not None
    torch.nn.Linear(5, 5)  # what a resumed stage initialises meanwhile
    checkpoints.set_random_state(loaded.ranks[0]["random"])
    assert torch.equal(torch.rand(4), expected)
