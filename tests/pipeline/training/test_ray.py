"""Trainings on a local cluster: two ranks, one of them killed, and what the driver hears of it."""

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import ConfigError, Diverged
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch
from tests.assets import HIKER
from tests.forked_workers import import_in_workers
from tests.pipeline.training.processes import train_ranks
from tests.pipeline.training.runs import BROKEN, HIGH, LOW, rows, training

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),  # Ray, of its own settings
]


SIX = {**LOW, "steps": 6, "objective": {**LOW["objective"], "discriminator_start": 2}}


def two_ranks(output: Path, **changes: Any) -> TrainConfig:
    values = {"workers": 2, "stages": [SIX], "checkpoint_every": 3, "log_every": 2}
    return training(output, **(values | changes))


def ranks() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]


def test_two_ranks_train_one_model_and_a_killed_one_costs_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ranks find in the next stage, here checkpoints of another model, ends the run."""
    import_in_workers("torch._dynamo", "torch.utils.tensorboard", "pipeline.training.stage")
    monkeypatch.chdir(tmp_path)  # relative paths are those of the command, not of a rank
    source = {"uri": [os.path.relpath(path, tmp_path) for path in (HIKER.path, BROKEN)]}
    output = tmp_path / "on-ray"
    checkpoints = output / "1-low/checkpoints"
    (others := output / "2-high/checkpoints").mkdir(parents=True)
    torch.save({"shared": {"model": "another"}, "ranks": [{}, {}]}, others / "00000001.pt")
    killed: list[int] = []
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if line.startswith("low 4/6") and not killed:
            while not any(checkpoints.glob("*.pt")):  # it is written meanwhile
                time.sleep(0.05)
            victims = ranks()
            assert len(victims) == 2
            victims[-1].kill()
            killed.append(victims[-1].pid)

    config = two_ranks(Path("on-ray"), source=source, stages=[SIX, HIGH], min_workers=1)
    with pytest.raises(ConfigError, match="2-high: holds checkpoints of another model"):
        launch(config, tell)
    assert killed
    assert lines.pop(0).startswith("ray        joined at ")
    assert [line.partition("  ")[0].partition(";")[0] for line in lines[:4]] == [
        "low: 0 of 6 batches done",
        "low 2/6",
        "low 3/6",
        "low 4/6",
    ]
    again = [line for line in lines[4:] if line.startswith("low: ")]
    assert again[0].startswith("low: 3 of 6 batches done")
    # After the error of the next stage no rank is started again.
    assert lines[-1] == again[-1] == f"low: {output}/1-low/model.safetensors"
    assert [path.name for path in checkpoints.iterdir()] == ["00000003.pt"]
    assert not (Path.home() / "ray_results").exists()

    undisturbed = tmp_path / "plain"
    train_ranks(two_ranks(undisturbed, source=source), 2)
    assert rows(output, of="train") == rows(undisturbed, of="train")
    one, two = (load_file(path / "1-low/model.safetensors") for path in (undisturbed, output))
    assert all(one[name].equal(two[name]) for name in one)


def test_a_training_that_diverges_is_not_started_again(tmp_path: Path) -> None:
    import_in_workers("torch._dynamo", "torch.utils.tensorboard", "pipeline.training.stage")
    lines: list[str] = []
    config = two_ranks(tmp_path, stages=[{**SIX, "lr": 1e30}])
    with pytest.raises(Diverged, match="low: batch 2: the loss or its gradient is not finite"):
        launch(config, lines.append)
    assert len([line for line in lines if line.startswith("low: 0 of 6 batches done")]) == 1
