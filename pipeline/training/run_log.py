"""Log of a stage: lines of metrics, TensorBoard, pictures, a curve.

metrics.jsonl           one line per run of batches and per validation
samples/00001000.png    held-out clips beside their reconstructions
curve.png               loss and held-out PSNR over batches
tensorboard/            the same scalars and pictures, if the output is a local folder
"""

import io
import json
import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.errors import Diverged, StoreError
from pipeline.storage.files import canonical_uri, is_local
from pipeline.storage.store import Store

_METRICS: Final = "metrics.jsonl"


class RunLog:
    """The log of one stage; only the first rank has one.

    Args:
        store: the stage's folder.
        step: batches of the checkpoint that the run resumes from. Lines beyond it are dropped,
            because the same batches follow again.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, store: Store, step: int) -> None:
        self._store = store
        self._rows: list[dict[str, Any]] = []
        if step and store.exists(_METRICS):
            rows = [json.loads(line) for line in store.read(_METRICS).decode().splitlines()]
            self._rows = [row for row in rows if row["step"] <= step]
        self._board: Any = None
        if is_local(store.uri):
            from torch.utils.tensorboard import SummaryWriter

            folder = canonical_uri(store.locate("tensorboard"))
            try:
                self._board = SummaryWriter(folder, purge_step=step + 1)
            except OSError as error:
                raise StoreError(
                    f"{folder}: the log of TensorBoard cannot be written: {error}; repair the"
                    " output, and run the same command again"
                ) from error
        self._values: dict[str, list[Tensor | float]] = {}

    def batch(
        self,
        step: int,
        values: dict[str, Tensor | float],
        *,
        due: bool,
        pace: Callable[[], dict[str, float]] = dict,
    ) -> dict[str, float] | None:
        """Add one batch; where a line is due, return it: the means since the last line, and `pace`.

        Scalars on a device are fetched for the line, all together. `pace` is called after that, so
        it sees a GPU that has computed them.

        Raises:
            Diverged: a mean is not finite. The line is not added.
        """
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        if not due:
            return None
        # A term may begin between two lines: each mean is over the batches that have the term.
        on_device = [v for vs in self._values.values() for v in vs if isinstance(v, Tensor)]
        fetched = iter(torch.stack(on_device).tolist() if on_device else [])
        means = {
            name: sum(next(fetched) if isinstance(v, Tensor) else v for v in vs) / len(vs)
            for name, vs in self._values.items()
        }
        self._values = {}
        if not all(map(math.isfinite, means.values())):
            raise Diverged(f"batch {step}: the loss or its gradient is not finite")
        line = means | pace()
        self._add(step, "train", line)
        return line

    def validation(self, step: int, values: dict[str, float], picture: bytes) -> None:
        """Add a measurement of the held-out clips, and its picture as PNG.

        Raises:
            Diverged: a score is NaN. Nothing is added.
        """
        if any(map(math.isnan, values.values())):
            raise Diverged(f"batch {step}: a score of the held-out clips is not a number")
        self._add(step, "held_out", values)
        self._store.write(f"samples/{step:08d}.png", picture)
        if self._board is not None:
            import numpy as np
            from PIL import Image

            pixels = np.asarray(Image.open(io.BytesIO(picture)))
            self._board.add_image("held_out", pixels, step, dataformats="HWC")

    def note(self, step: int, values: dict[str, Any]) -> None:
        """Add a fact that is not a number of a batch."""
        self._rows.append({"step": step, "of": "note", **values})

    def _add(self, step: int, of: str, values: dict[str, float]) -> None:
        self._rows.append({"step": step, "of": of, **values})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{of}/{name}", value, step)

    def save(self) -> None:
        """Write the lines and their curve."""
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        self._store.write(_METRICS, text.encode())
        if curve := curve_png(self._rows):
            self._store.write("curve.png", curve)
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """End TensorBoard's thread. This writes nothing."""
        if self._board is not None:
            self._board.close()


def curve_png(rows: list[dict[str, Any]]) -> bytes | None:
    """Return a PNG of loss and PSNR over batches; None before the first line of training."""
    train = [row for row in rows if row["of"] == "train"]
    held_out = [row for row in rows if row["of"] == "held_out"]
    if not train:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, quality = figure.subplots(1, 2)
    for name in ("pixel", "perceptual"):
        if name in train[0]:
            loss.plot([r["step"] for r in train], [r.get(name) for r in train], label=name)
    loss.set(xlabel="batches", ylabel="loss, training clips", yscale="log")
    loss.legend()
    steps = [r["step"] for r in held_out]
    for name in [name for name in (held_out or [{}])[0] if name.startswith("psnr")]:
        quality.plot(steps, [r[name] for r in held_out], marker=".", label=name)
    if held_out:
        quality.legend()
    quality.set(xlabel="batches", ylabel="PSNR of held-out clips, dB")
    for axes in (loss, quality):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
