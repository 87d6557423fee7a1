"""Trainings on a local cluster: two ranks, one of them killed, and what the driver hears of it."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from pipeline.errors import ConfigError
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch
from pipeline.training.ray_ranks import Rank
from pipeline.training.stage import train_stages
from tests.pipeline.training.runs import BROKEN, LOW, rows, training

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning"),  # Ray, of its own settings
]


def two_ranks(output: Path, **changes: Any) -> TrainConfig:
    return training(output, **({"workers": 2, "stages": [LOW]} | changes))


def plain_rank(rank: int, config: TrainConfig) -> None:
    """Train as one of two ranks without Ray, with as many threads as Ray gives a rank."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{config.output}.meet", rank=rank, world_size=2
    )
    train_stages(config, Rank(rank, 2), lambda _: None)
    distributed.destroy_process_group()


def ranks() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]


def test_two_ranks_train_one_model_and_a_killed_one_costs_no_batch(tmp_path: Path) -> None:
    killed: list[int] = []
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        if line.startswith("low 6/8") and not killed:
            victims = ranks()
            assert len(victims) == 2
            victims[-1].kill()
            killed.append(victims[-1].pid)

    output = tmp_path / "on-ray"
    launch(two_ranks(output), tell)
    assert killed
    assert lines.pop(0).startswith("ray        joined at ")
    assert [line.partition("  ")[0].partition(";")[0] for line in lines[:4]] == [
        "low: 0 of 8 batches done",
        "low 3/8",
        "low 4/8",
        "low 6/8",
    ]
    again = [line for line in lines[4:] if line.startswith("low: ")]
    assert again[0].startswith("low: 4 of 8 batches done")
    assert lines[-1] == again[-1] == f"low: {output}/1-low/model.safetensors"
    checkpoint = output / "1-low/checkpoints/00000004"
    assert {path.name for path in checkpoint.iterdir()} == {"rank-0.pt", "rank-1.pt", "train.pt"}
    assert not (Path.home() / "ray_results").exists()

    undisturbed = tmp_path / "plain"
    multiprocessing.spawn(plain_rank, (two_ranks(undisturbed),), nprocs=2)
    assert rows(output, of="train") == rows(undisturbed, of="train")
    one, two = (load_file(path / "1-low/model.safetensors") for path in (undisturbed, output))
    assert all(one[name].equal(two[name]) for name in one)


def test_a_configuration_error_in_a_rank_is_final_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths are those of the command, not of a rank
    (tmp_path / "text.mp4").write_bytes(BROKEN.read_bytes())
    lines: list[str] = []
    config = two_ranks(Path("out"), source={"uri": ["text.mp4"]}, workers=1)
    with pytest.raises(ConfigError, match=rf"uri = .*{tmp_path}/text.mp4.*: none of 1 sources"):
        launch(config, lines.append)
    assert len(lines) == 2, "the Ray, and the rank that was started once"
