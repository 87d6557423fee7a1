"""TokenDataset under Lightning: the example of docs/reference/reading.md, stopped and resumed."""

from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.reading.test_docs import block
from tests.pipeline.reading.worlds import write_units

BATCH = 4
EPOCHS = 2

pytestmark = [
    # Of torch, as Lightning calls it.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a dataset at out/demo, where the recipe reads it; its version is 1."""
    monkeypatch.chdir(tmp_path)
    write_units(Store("out/demo"), 22)
    return "out/demo"


def model(workers: int) -> Any:
    names: dict[str, Any] = {}
    exec(block("import lightning").replace("num_workers=2", f"num_workers={workers}"), names)
    return names["Model"]()


def fit(module: Any, start: Path | None = None, *, save_in: Path | None = None) -> list[list[str]]:
    """Train, and return the names of each step's clips.

    With a folder, it saves checkpoints after steps and epochs.
    """
    lightning = pytest.importorskip("lightning")  # here: every process of the suite reads this file
    seen: list[list[str]] = []

    class Watch(lightning.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, out: Any, batch: Any, n: int
        ) -> None:
            seen.append(batch["clip_id"])
            if save_in is not None:
                trainer.save_checkpoint(save_in / f"step-{len(seen)}.ckpt")

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if save_in is not None:
                trainer.save_checkpoint(save_in / f"epoch-{len(seen)}.ckpt")

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=start)
    return seen


def test_two_epochs_and_a_resume_after_every_step(corpus: str, tmp_path: Path) -> None:
    whole = fit(model(workers=2), save_in=tmp_path)
    data = TokenDataset(pipeline.open(corpus), ["clip_id"], BATCH)
    wanted = []
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        wanted += [batch["clip_id"] for batch in data]
    assert whole == wanted, "not what the dataset alone gives"
    assert len({name for batch in whole for name in batch}) == 22
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == len(whole) + EPOCHS
    for path in saved:
        steps = int(path.stem.rpartition("-")[2])
        assert fit(model(workers=0), path) == whole[steps:], path.name
