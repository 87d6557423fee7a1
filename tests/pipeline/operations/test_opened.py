"""A dataset shows itself and its clips, with and without the source; the notebook runs."""

import ast
import json
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.dataset.log.manifest import read_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.formatting import format_bytes
from pipeline.operations.compact import compact
from pipeline.operations.opened import OpenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound

NOTEBOOK = Path(__file__).parents[3] / "examples/look.ipynb"


@pytest.fixture
def dataset(corpus: Store) -> OpenDataset:
    return pipeline.open(corpus.uri)


def test_it_says_what_it_holds(dataset: OpenDataset) -> None:
    assert f"clips: {len(dataset)} in 1 part" in repr(dataset)
    assert f"bucket 5x32x40: {len(dataset)} clips of 5 frames of 32×40" in repr(dataset)
    assert "column kl: latents [c, t, h, w] float16 of vidtok_kl" in repr(dataset)
    assert "samples: 2 read, 1 quarantined" in repr(dataset)
    page = dataset._repr_html_()
    assert page.count("<tr>") == len(dataset.facts())
    assert pickle.loads(pickle.dumps(dataset)) == dataset  # a loader's workers get it


def test_a_merged_part_is_counted_once(local: Store) -> None:
    sound(local)
    compact(local)
    files = list(local.files("data"))
    named = {part.path for part in read_manifest(local).parts()}
    size = format_bytes(sum(file.bytes for file in files if file.path in named))
    assert len(named) == 2
    assert f"clips: 21 in 2 parts, {size}" in repr(pipeline.open(local.uri))


def test_a_clip_has_tokens_frames_and_decoded_frames(dataset: OpenDataset) -> None:
    first = dataset.clip()
    clip = dataset.clip(first.row["clip_id"])
    assert clip.tokens["fsq"].shape == (2, 4, 5)
    assert clip.tokens["kl"].shape == (8, 2, 4, 5)
    assert clip.frames.shape == (5, 32, 40, 3)
    assert list(clip.decoded) == ["fsq", "kl"]
    for frames in clip.decoded.values():
        error = np.abs(frames.astype(float) - clip.frames).mean()
        assert error < np.abs(frames.astype(float) - 255 + clip.frames).mean()
    assert clip._repr_png_().startswith(b"\x89PNG")
    assert "data:image/png;base64," in clip._repr_html_()
    assert f"clip_id: {clip.row['clip_id']}" in repr(clip)
    with pytest.raises(ConfigError, match="no row of"):
        dataset.clip("none/none/0")


def test_without_the_source_the_cells_are_still_decoded(
    dataset: OpenDataset, without_source: Callable[[], AbstractContextManager[None]]
) -> None:
    with without_source():
        clip = dataset.clip()
        with pytest.raises(StoreError, match="do not need the source"):
            _ = clip.frames
        height = clip.picture().height
    assert sorted(clip.decoded) == ["fsq", "kl"]
    assert dataset.clip().picture().height > height


def test_outside_text_is_escaped(dataset: OpenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenDataset, "facts", lambda _: {"a": "<script>\x1b"})
    assert "&lt;script&gt;\\x1b" in dataset._repr_html_()
    assert repr(dataset) == "a: <script>\\x1b"


def test_every_cell_of_the_notebook_runs(
    dataset: OpenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib
    from matplotlib import pyplot as plt

    matplotlib.use("Agg")
    monkeypatch.setenv("DATASET", dataset.store.uri)
    drawn: list[int] = []

    def shows() -> None:
        drawn.append(len(plt.gcf().axes))
        plt.close("all")  # as a notebook does

    monkeypatch.setattr(plt, "show", shows)
    names: dict[str, Any] = {}
    shown = []
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, NOTEBOOK.name, "exec"), names)
            if last is not None:
                value = ast.Expression(last.value)  # type: ignore[attr-defined]
                shown.append(eval(compile(value, NOTEBOOK.name, "eval"), names))
    assert drawn == [2, 8, 1]
    assert shown[0] == dataset
    assert all(hasattr(value, "_repr_html_") for value in shown[:2])
    mean, std = shown[-1]["kl"]
    assert len(mean) == len(std) == 8
