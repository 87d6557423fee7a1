"""A checkpoint is complete or not there; on disks and on object stores."""

from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.storage.store import Store
from pipeline.training import checkpoints


def save(store: Store, step: int, *, keep: int = 2, rank: int = 0) -> None:
    shared = {"step": step, "weights": torch.full((3,), float(step))}
    checkpoints.save(store, step, shared, {"clips": {"turn": step}}, rank=rank, keep=keep)


def files(store: Store) -> list[str]:
    return [path.removeprefix("checkpoints/") for path in store.list("checkpoints")]


def test_the_last_of_them_comes_back(store: Store) -> None:
    assert checkpoints.load_last(store, rank=0) is None
    for step in (1, 2, 10):
        save(store, step)
    loaded = checkpoints.load_last(store, rank=0)
    assert loaded is not None
    shared, own = loaded
    assert shared["step"] == 10
    assert torch.equal(shared["weights"], torch.full((3,), 10.0))
    assert own["clips"] == {"turn": 10}
    kept = ["00000002", "00000010"]
    assert files(store) == [f"{n}/{name}" for n in kept for name in ("rank-0.pt", "train.pt")]


def test_what_has_no_marker_does_not_count_and_goes_with_time(store: Store) -> None:
    save(store, 1)
    save(store, 2)
    for half in (1, 2):  # killed between two files, in deleting and in writing
        store.delete(f"checkpoints/{half:08d}/train.pt")
    assert checkpoints.load_last(store, rank=0) is None
    save(store, 3)
    store.write("checkpoints/00000004/rank-0.pt", b"killed in mid-write")
    loaded = checkpoints.load_last(store, rank=0)
    assert loaded is not None
    assert loaded[0]["step"] == 3
    save(store, 4, keep=1)
    assert files(store) == ["00000004/rank-0.pt", "00000004/train.pt"]


class Killed(Store):
    """A store whose process dies before it writes a marker, and before it deletes another file."""

    def write(self, path: str, data: bytes) -> None:
        if path.endswith("train.pt"):
            raise KeyboardInterrupt
        super().write(path, data)

    def delete(self, path: str) -> None:
        if not path.endswith("train.pt"):
            raise KeyboardInterrupt
        super().delete(path)


def test_the_marker_goes_first(tmp_path: Any) -> None:
    class KilledInDeleting(Killed):
        write = Store.write

    store = Store(str(tmp_path))
    save(store, 1)
    with pytest.raises(KeyboardInterrupt):
        save(KilledInDeleting(str(tmp_path)), 2, keep=1)
    assert files(store) == ["00000001/rank-0.pt", "00000002/rank-0.pt", "00000002/train.pt"]
    save(store, 3, keep=1)
    assert files(store) == ["00000003/rank-0.pt", "00000003/train.pt"]


def test_the_marker_comes_last(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    save(store, 1)
    with pytest.raises(KeyboardInterrupt):
        save(Killed(str(tmp_path)), 2)
    assert "00000002/rank-0.pt" in files(store)
    loaded = checkpoints.load_last(store, rank=0)
    assert loaded is not None
    assert loaded[0]["step"] == 1


def test_noise_goes_on_from_where_it_was(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    torch.manual_seed(3)
    torch.rand(5)
    save(store, 1)
    expected = torch.rand(4)
    torch.manual_seed(99)
    loaded = checkpoints.load_last(store, rank=0)
    assert loaded is not None
    torch.nn.Linear(5, 5)  # what a resumed stage initialises meanwhile
    checkpoints.set_random_state(loaded[1]["random"])
    assert torch.equal(torch.rand(4), expected)


def test_every_rank_has_its_own_part(tmp_path: Any) -> None:
    store = Store(str(tmp_path))
    save(store, 5, rank=1)
    assert files(store) == ["00000005/rank-1.pt"]
    torch.rand(1)
    save(store, 5, rank=0)
    parts = [checkpoints.load_last(store, rank=rank) for rank in (0, 1)]
    assert not torch.equal(parts[0][1]["random"]["cpu"], parts[1][1]["random"]["cpu"])
    with pytest.raises(ConfigError, match=r"written by fewer ranks, and holds nothing of rank 2"):
        checkpoints.load_last(store, rank=2)
