"""What a stage tells: lines, TensorBoard, pictures, a curve."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import Diverged
from pipeline.storage.store import Store
from pipeline.training.run_log import RunLog


def png(size: tuple[int, int] = (64, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(file, format="png")
    return file.getvalue()


def rows(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read("metrics.jsonl").decode().splitlines()]


def batches(record: RunLog, steps: range, every: int = 2) -> None:
    for step in steps:
        record.batch(step, {"loss": float(step), "pixel": 1 / step}, due=step % every == 0)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    tags = board.Tags()["scalars"]
    events = {tag: board.Scalars(tag) for tag in tags}
    assert all(len({e.step for e in of}) == len(of) for of in events.values()), "a step came twice"
    return {tag: {e.step: e.value for e in of} for tag, of in events.items()}


def test_a_line_has_the_means_since_the_last_one(tmp_path: Path) -> None:
    record = RunLog(Store(str(tmp_path)), 0)
    assert record.batch(1, {"loss": 1.0}, due=False) is None
    # A term that begins between two lines is averaged over its own batches.
    assert record.batch(2, {"loss": 3.0, "hinge": 5.0}, due=True) == {"loss": 2.0, "hinge": 5.0}
    assert record.batch(3, {"loss": 7.0, "hinge": 1.0}, due=True) == {"loss": 7.0, "hinge": 1.0}
    record.close()


def test_values_that_are_not_finite_are_not_written(store: Store) -> None:
    record = RunLog(store, 0)
    record.note(0, {"perceptual": "none"})
    with pytest.raises(Diverged, match="batch 2: the loss or its gradient is not finite"):
        record.batch(2, {"loss": 1.0, "gradient_norm": float("inf")}, due=True)
    with pytest.raises(Diverged, match="batch 2: a score of the held-out clips is not a number"):
        record.validation(2, {"psnr": float("nan")}, png())
    record.save()
    record.close()
    assert [row["of"] for row in rows(store)] == ["note"]


def test_lines_pictures_and_a_curve(store: Store) -> None:
    record = RunLog(store, 0)
    record.note(0, {"perceptual": "none"})
    record.validation(0, {"psnr": 20.0, "ssim": 0.5}, png())
    batches(record, range(1, 5))
    record.validation(4, {"psnr": 21.0, "ssim": 0.6}, png())
    record.save()
    record.close()
    assert rows(store) == [
        {"step": 0, "of": "note", "perceptual": "none"},
        {"step": 0, "of": "held_out", "psnr": 20.0, "ssim": 0.5},
        {"step": 2, "of": "train", "loss": 1.5, "pixel": 0.75},
        {"step": 4, "of": "train", "loss": 3.5, "pixel": pytest.approx(7 / 24)},
        {"step": 4, "of": "held_out", "psnr": 21.0, "ssim": 0.6},
    ]
    assert store.list("samples") == ["samples/00000000.png", "samples/00000004.png"]
    curve = Image.open(io.BytesIO(store.read("curve.png")))
    assert (curve.format, curve.size) == ("PNG", (880, 352))
    assert len(curve.convert("L").getcolors() or []) > 10, "something is drawn"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_tensorboard_has_the_same(tmp_path: Path, scheme: str) -> None:
    record = RunLog(Store(f"{scheme}{tmp_path}/run"), 0)
    record.validation(0, {"psnr": 20.0}, png())
    batches(record, range(1, 5))
    record.save()
    record.close()
    assert scalars(tmp_path / "run") == {
        "train/loss": {2: 1.5, 4: 3.5},
        "train/pixel": {2: 0.75, 4: pytest.approx(7 / 24)},
        "held_out/psnr": {0: 20.0},
    }


def test_what_comes_again_after_a_kill_stands_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = RunLog(store, 0)
    record.note(0, {"perceptual": "none"})
    record.validation(0, {"psnr": 20.0}, png())
    batches(record, range(1, 8))  # the checkpoint is of step 4
    record.save()
    record.close()
    first = rows(store)

    resumed = RunLog(store, 4)
    batches(resumed, range(5, 9))
    resumed.save()
    resumed.close()
    assert rows(store) == [*first, {"step": 8, "of": "train", "loss": 7.5, "pixel": 15 / 112}]
    steps = scalars(tmp_path)["train/loss"]
    assert sorted(steps) == [2, 4, 6, 8]

    again = RunLog(store, 0)  # without a checkpoint the log starts empty
    again.note(0, {"perceptual": "none"})
    again.save()
    again.close()
    assert rows(store) == first[:1]


def test_an_unfinished_line_is_not_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = RunLog(store, 0)
    batches(record, range(1, 4))
    record.close()
    assert not store.exists("metrics.jsonl")
    record.save()
    assert [row["step"] for row in rows(store)] == [2]
