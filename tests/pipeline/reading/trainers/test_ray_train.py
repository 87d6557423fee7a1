"""TokenDataset under Ray Train: the example of docs/reference/reading.md, stopped and resumed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import connect
from pipeline.storage.store import Store
from tests.pipeline.reading.test_docs import block
from tests.pipeline.reading.worlds import write_units

CLIPS = 60
SAVED = 2
"""Number of steps of each rank up to the checkpoint from which the second run resumes."""


def learner(folder: Path, breaks_after: int) -> Callable[[dict[str, Any]], None]:
    """Return a loop that notes each batch of a rank in a file, and fails after some of them."""

    def learn(batch: dict[str, Any]) -> None:
        import ray.train

        path = folder / f"rank-{ray.train.get_context().get_world_rank()}"
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) == breaks_after:
            raise RuntimeError("broken off")
        path.write_text("\n".join([*lines, json.dumps([batch["epoch"], batch["clip_id"]])]))

    return learn


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")  # Ray, of its own settings
@pytest.mark.filterwarnings("ignore:The `parse_obj` method")  # Ray, as it reads its own records
def test_another_number_of_workers_goes_on_in_mid_epoch(tmp_path: Path) -> None:
    from ray.train import Result, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    store = Store(str(tmp_path / "corpus"))
    write_units(store, CLIPS)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(block("import json, pipeline, ray.train"), names)

    def fit(run: str, workers: int, start: Any, breaks_after: int = -1) -> list[list[Any]]:
        """Train, and return of each rank the epoch and the clips of its batches."""
        (tmp_path / run).mkdir()
        config = {
            "corpus": store.uri,
            "start": start,
            "epochs": 2,
            "learn": learner(tmp_path / run, breaks_after),
            "save_every": SAVED if breaks_after > 0 else 1000,  # a report takes its time
        }
        trainer = TorchTrainer(
            names["train"],
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name=run, storage_path=str(tmp_path / "runs")),
        )
        if breaks_after > 0:
            with pytest.raises(Exception, match="broken off"):
                trainer.fit()
        else:
            trainer.fit()
        ranks = [(tmp_path / run / f"rank-{n}").read_text() for n in range(workers or 1)]
        return [[json.loads(line) for line in text.splitlines()] for text in ranks]

    with connect():
        first = fit("first", 2, None, breaks_after=SAVED + 1)
        checkpoint = Result.from_path(str(tmp_path / "runs/first")).checkpoint
        second = fit("second", 0, checkpoint)  # in this process, as one rank
    counted = [step for rank in first for step in rank[:SAVED]]
    assert len(counted) == 2 * SAVED
    seen: dict[int, list[str]] = {0: [], 1: []}
    for epoch, clips in [*counted, *second[0]]:
        seen[epoch] += clips
    assert seen[0] != seen[1]
    for clips in seen.values():
        assert len(clips) == len(set(clips)) == CLIPS
