"""Ranks that are killed, and what as many or another number of them continue."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.training.config import TrainConfig
from tests.pipeline.training.processes import train_ranks
from tests.pipeline.training.runs import KL, LOW, rows, training

pytestmark = pytest.mark.timeout(450)  # three runs; one that hangs fails after `PATIENCE_S`

FOUR = {**LOW, "steps": 4, "objective": {**LOW["objective"], "discriminator_start": 1}}
"""The discriminator has learned when the checkpoint is written, and learns again after it."""


def run(output: Path) -> TrainConfig:
    return training(output, model=KL, stages=[FOUR], checkpoint_every=2, log_every=3)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that three ranks began: killed at batch 3, with a checkpoint of batch 2.

    The order in which two ranks are added does not matter, that of three does.
    """
    folder = tmp_path_factory.mktemp("killed")
    lines = train_ranks(run(folder / "out"), 3, killed_at="low 3/4")
    assert lines[0].startswith("low: 0 of 4 batches done")
    assert [path.name for path in (folder / "out/1-low/checkpoints").iterdir()] == ["00000002.pt"]
    return folder


def test_as_many_ranks_continue_to_the_same_losses(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "cut")
    cut, whole = tmp_path / "cut/out", tmp_path / "whole"
    assert train_ranks(run(cut), 3)[0].startswith("low: 2 of 4 batches done")
    train_ranks(run(whole), 3)
    assert rows(cut, of="train") == rows(whole, of="train")
    one, two = (load_file(output / "1-low/model.safetensors") for output in (cut, whole))
    assert all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize("world", [1, 4])
def test_another_number_of_ranks_continues(killed: Path, tmp_path: Path, world: int) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    before = rows(killed / "out", of="train")
    lines = train_ranks(run(tmp_path / "out"), world)
    assert lines[0].startswith("low: 2 of 4 batches done")
    assert lines[1] == (
        f"low: 3 ranks before, {world} now: the videos left of the epoch are dealt again, and a"
        f" step takes {world} clips"
    )
    after = rows(tmp_path / "out", of="train")
    assert [row["step"] for row in after] == [2, 3, 4]
    assert after[0] == before[0]
    assert rows(tmp_path / "out", of="note")[1] == {
        "step": 2, "of": "note", "ranks": world, "ranks_before": 3
    }  # fmt: skip
    assert (tmp_path / "out/1-low/model.safetensors").exists()
