"""The examples of the pages about reading run unchanged, and return what was written."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.embeddings import Embedding, embedded_rows, embedded_text
from pipeline.dataset.metadata import new_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.quantized import dequantize, quantize
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.row_statistics import row_statistics
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.operations.publish.publish import publish
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.examples.captioned_latents import TEXTS, write_rows
from tests.pipeline.made_datasets import IDENTITY, write_log
from tests.pipeline.units import KL, make_clip

REFERENCE = Path(__file__).parents[3] / "docs/reference"
PAGES = ["reading.md", "combining.md", "parquet.md", "tables.md"]
TEXT = "".join((REFERENCE / page).read_text() for page in PAGES)
FSQ = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint32",
    axes=("t", "h", "w"),
    model="m",
    fingerprint="0",
    codebook_size=1 << 18,
    causal_factor=4,
)
KL8 = replace(KL, name="kl8", dtype="uint8", bits=8, logvar=False)
ROWS = 24


def block(first: str) -> str:
    """Return the one example that contains a text."""
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if first in text]
    return found


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, np.ndarray]]:
    """Write a dataset like the demo's; return its cells in the order of its rows."""
    rng = np.random.default_rng(0)
    columns = (FSQ, KL, KL8)
    cells = {
        "fsq": rng.integers(0, 1 << 18, (ROWS, 5, 32, 32), np.uint32),
        "kl": rng.standard_normal((ROWS, 8, 5, 32, 32)).astype(np.float16),
        "kl_logvar": rng.standard_normal((ROWS, 8, 5, 32, 32)).astype(np.float16),
    }
    cells["kl8"], cells["kl8_scale"] = quantize(cells["kl"].astype(np.float32), 8)
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("docs"))
    store, schema = Store("out/demo"), clip_schema(columns)
    clips = [make_clip("u-0", n) for n in range(ROWS)]
    rows = pa.Table.from_batches([clip_rows(clips, cells, schema)])
    with PartWriter(store, schema, unit="u-0", bucket="17x256x256", row_group_bytes=1) as writer:
        writer.add(rows)
        parts = writer.publish()
    record = UnitRecord(
        unit="u-0",
        sources=("u-0",),
        parts=parts,
        quarantine=None,
        counts=Counts(clips_seen=ROWS, clips_written=ROWS),
        reasons={},
        statistics={"17x256x256": row_statistics(rows, [KL], {})},
    )
    fsq = {"kind": "indices", "channels": 9, "codebook_size": 4**9, "levels": [4] * 9}
    made = IDENTITY["tokenizers"]
    made = {**made, "kl8": made["kl"], "fsq": {"weights": "", "facts": fsq}}
    write_log(store, [record], new_dataset(columns, {**IDENTITY, "tokenizers": made}))
    yield cells
    os.chdir(before)


def run(first: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    # Absolute, since the processes of a cluster that runs already have a folder of their own.
    exec(block(first).replace("out/demo", f"{Path.cwd()}/out/demo"), names)
    return names


def same(found: Any, wanted: np.ndarray) -> bool:
    """Return whether cells are those written, in whatever order."""
    assert len(found) == len(wanted)
    return {np.asarray(one).tobytes() for one in found} == {one.tobytes() for one in wanted}


def test_opening(cells: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    names = run("print(corpus.version")
    latents = cells["kl"].astype(np.float64)
    np.testing.assert_allclose(names["latents"].mean(), latents.mean((0, 2, 3, 4)), rtol=1e-9)
    np.testing.assert_allclose(names["latents"].std(), latents.std((0, 2, 3, 4)), rtol=1e-9)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert f"# {_counted(first)}" in _counted(block("print(corpus.version"))
    assert last.endswith("torch.Size([5, 32, 32])")


def _counted(text: str) -> str:
    """Return a text with `N` for each number: the demo has other clips than this dataset."""
    return re.sub(r"\b\d+\b", "N", text)


def test_training(cells: dict[str, np.ndarray]) -> None:
    names = run("for epoch in range(data.epoch, 2)")
    assert (names["indices"].dtype, tuple(names["indices"].shape)) == (torch.int64, (4, 5, 32, 32))
    assert len(names["captions"]) == 4
    assert (names["state"]["epoch"], names["state"]["position"]) == (1, 6)


def test_going_on(cells: dict[str, np.ndarray]) -> None:
    names = run("again.load_state_dict(state)")
    assert names["state"]["position"] == 1
    assert (names["batch"]["epoch"], names["batch"]["position"]) == (1, 6)


def test_random_access(cells: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    names = run("TokenMap(")
    assert capsys.readouterr().out == "24 u-0/k0/0 torch.Size([5, 32, 32])\n"
    assert same([row["fsq"].numpy().astype(np.uint32) for row in names["few"]], cells["fsq"][3:6])


def test_shorter_clips_and_sequences(
    cells: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    names = run("short = TokenDataset")
    [*short], [*images] = names["short"], names["images"]
    assert same(torch.cat([batch["fsq"] for batch in short]), cells["fsq"][:, :3].astype("i8"))
    assert {tuple(batch["num_frames"].tolist()) for batch in short} == {(9,) * 4}
    assert same(torch.cat([batch["fsq"] for batch in images]), cells["fsq"][:, :1].astype("i8"))
    pairs = torch.cat([batch["fsq"] for batch in names["pairs"]])
    assert same(pairs, cells["fsq"].reshape(-1, 2, *cells["fsq"].shape[1:]).astype("i8"))
    assert capsys.readouterr().out == f"{ROWS // 4} 0\n"


def test_split(cells: dict[str, np.ndarray]) -> None:
    names = run('split="validation"')
    train, held = (
        {key for batch in names[side] for key in batch["key"]} for side in ("train", "held")
    )
    assert train
    assert held
    assert len(train) + len(held) == len(train | held) == ROWS // 2


def test_mix(cells: dict[str, np.ndarray]) -> None:
    names = run("both = mix(")
    assert names["state"]["step"] == 10
    assert names["indices"].shape[1:] == ([5, 1][names["source"]], 32, 32)


def test_join(cells: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    clips = [make_clip("u-0", n) for n in range(20)]
    found = {
        embedded_text(clip): Embedding((0,) * (1 + n % 3), rng.random((1 + n % 3, 4)).astype("<f2"))
        for n, clip in enumerate(clips)
    }
    rows = pa.Table.from_batches([embedded_rows(clips, {"text": found}, clip_schema([TEXTS]))])
    store = Store("out/demo_text")
    write_rows(store, TEXTS, "u-0", rows, bucket="17x256x256")
    scores = {"clip_id": [clip.clip_id for clip in clips[2:]], "score": [0.5] * 18}
    pq.write_table(pa.table(scores), "out/demo_scores.parquet")
    names = run("tokens.join(texts)")
    assert len(names["joined"]) == 20
    first, *missing = capsys.readouterr().out.splitlines()
    assert (first, len(missing)) == ("20", 2)
    assert missing[0].startswith("4 clips without a row in ")
    assert missing[1].startswith("2 clips without a row in ")
    for text, caption in zip(names["embeddings"], names["batch"]["caption"], strict=True):
        assert np.array_equal(text.numpy(), found[caption or ""].cells)


def test_pyarrow(cells: dict[str, np.ndarray]) -> None:
    assert np.array_equal(run("pyarrow.dataset as ds")["indices"], cells["fsq"])


def test_duckdb(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("duckdb")
    by_id = sorted(range(ROWS), key=lambda n: make_clip("u-0", n).clip_id)[:10]
    assert np.array_equal(run("import duckdb")["indices"], cells["fsq"][by_id])


def test_pandas(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pandas")
    assert np.array_equal(run('"kl_shape"')["latents"], cells["kl"])


def test_latents_in_uint8(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pandas")
    wanted = cells["kl8"].astype(np.float32)
    for clip, scale in zip(wanted, cells["kl8_scale"], strict=True):
        dequantize(clip, scale)
    found = run('"kl8_scale"')["latents"]
    assert [one.dtype for one in found] == [np.float32] * ROWS
    assert np.array_equal(found, wanted)
    data = TokenDataset(pipeline.open("out/demo"), ["kl8"], ROWS, shuffle=False, strands=1)
    [batch] = data
    assert np.array_equal(batch["kl8"].numpy(), wanted)


def test_polars(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("polars")
    assert np.array_equal(run("polars as pl")["indices"], cells["fsq"])


def test_hugging_face_datasets(
    cells: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    pytest.importorskip("datasets")
    assert same(run("import datasets")["indices"], cells["fsq"])


def test_delta(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("deltalake")
    publish(Store("out/demo"), "delta")
    names = run("import deltalake")
    assert same(names["indices"], cells["fsq"])
    duckdb = pytest.importorskip("duckdb")
    arrow = names["arrow"]
    assert duckdb.sql("SELECT count(*) FROM arrow").fetchall() == [(arrow.count_rows(),)]


def test_iceberg(cells: dict[str, np.ndarray]) -> None:
    pytest.importorskip("pyiceberg")
    publish(Store("out/demo"), "iceberg")
    assert same(run("from pyiceberg.table import StaticTable")["indices"], cells["fsq"])


def test_bfloat16() -> None:
    [line] = re.findall(r"`(torch\.frombuffer\(.*?\))`", TEXT)
    names = {"torch": torch, "cells": bytes([0x80, 0x3F, 0x10, 0xC1]), "shape": [2, 1]}
    assert eval(line, names).tolist() == [[1.0], [-9.0]]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")  # Ray, of its own settings
def test_ray_data(cells: dict[str, np.ndarray]) -> None:
    batches = run("import numpy as np, ray.data")["batches"]
    found = torch.cat([batch["fsq"] for batch in batches])
    assert found.dtype == torch.int64
    assert same(found.numpy().astype(np.uint32), cells["fsq"])
