"""A column whose indices follow the scene, beside one of the same model that does not."""

from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pipeline
import vidtok
from pipeline.config.job import JobConfig
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.row_sampling import draw_rows
from pipeline.operations.recompute import Recomputer, SourceClip
from pipeline.operations.scene_bits import Group
from pipeline.operations.stats import stats
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from tests.assets import HIKER
from tests.pipeline.stages.test_decode_back import by_hand
from tests.pipeline.tokenized import tokenized
from vidtok.repeats import hold_repeats, repeat_share

MODEL = "vidtok_fsq_causal_488_262144_tiny"
MAX_LOSS_DB = 0.2
LEVELS = (8,) * 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Clips of the hiker with their indices as they are, and held; tests must not write to it."""
    values = {
        "source": {"uri": [str(HIKER.path)]},
        "clip": {
            "frames": 9,
            "height": 32,
            "width": 48,
            "max_per_sample": 2,
            "measure": ["motion", "phash"],
        },
        "tokenizers": [
            {"name": "plain", "model": MODEL},
            {"name": "fsq", "model": MODEL, "hold": {"max_loss_db": MAX_LOSS_DB}},
        ],
        "output": {"uri": str(tmp_path_factory.mktemp("held"))},
    }
    return tokenized(JobConfig.model_validate(values))


@pytest.fixture(scope="module")
def rows(store: Store) -> list[dict[str, Any]]:
    [part] = read_manifest(store).parts()
    with open_parquet(store, part.path) as parquet:
        found: list[dict[str, Any]] = parquet.read().to_pylist()
    return found


def indices(row: dict[str, Any], name: str) -> torch.Tensor:
    cells = np.frombuffer(row[name], "<u4").reshape(row[f"{name}_shape"]).astype(np.int64)
    return torch.from_numpy(cells)[None]


def test_the_columns_say_what_was_done(store: Store, rows: list[dict[str, Any]]) -> None:
    dataset = read_dataset(store)
    fields = {name: dataset.schema.field(name).type for name in ("fsq_hold", "fsq_repeats")}
    assert fields == {"fsq_hold": pa.uint8(), "fsq_repeats": pa.float32()}
    assert "plain_hold" not in dataset.schema.names
    made = dataset.identity["tokenizers"]
    assert made["fsq"] == made["plain"] | {"hold": {"max_loss_db": MAX_LOSS_DB}}
    for row in rows:
        plain, held = indices(row, "plain"), indices(row, "fsq")
        assert torch.equal(held, hold_repeats(plain, LEVELS, row["fsq_hold"]))
        assert row["fsq_repeats"] == float(repeat_share(held)) > float(repeat_share(plain))


def test_a_larger_distance_would_lose_too_much(store: Store, rows: list[dict[str, Any]]) -> None:
    model = vidtok.load(MODEL)
    drawn = draw_rows(read_manifest(store), len(rows), seed=0)
    with (
        job_arithmetic(1),
        closing(Recomputer(store, read_dataset(store), retokenize=False, decode=False)) as source,
    ):
        for found in source.clips(drawn):
            assert isinstance(found, SourceClip)
            assert isinstance(found.frames, np.ndarray)
            plain, d = indices(found.row, "plain"), found.row["fsq_hold"]
            psnr_db = [
                by_hand(model, hold_repeats(plain, LEVELS, distance)[0], found.frames) / 1000
                for distance in (0, d, d + 1)
            ]
            assert psnr_db[0] - psnr_db[1] <= MAX_LOSS_DB + 0.001
            assert psnr_db[0] - psnr_db[2] > MAX_LOSS_DB - 0.001


def test_rows_are_verified_and_read(store: Store, rows: list[dict[str, Any]]) -> None:
    found = verify(store, retokenize=1)
    assert found.findings == []
    assert found.clips_retokenized == 1
    data = TokenDataset(pipeline.open(store.uri), ["fsq", "fsq_repeats", "fsq_hold"], batch=2)
    [batch] = data
    assert sorted(batch["fsq_repeats"]) == sorted(row["fsq_repeats"] for row in rows)


def test_stats_say_how_many_bits_a_token_takes(store: Store, rows: list[dict[str, Any]]) -> None:
    assert stats(store).bits == {}
    result = stats(store, bits=True)
    [(name, found)] = result.bits.items()
    bits = []
    for row in rows:
        t, h, w = row["fsq_shape"]
        repeats = round(row["fsq_repeats"] * t * h * w)
        bits.append(min(18, ((t * h * w - repeats) * 18 + (t - 1) * h * w) / (t * h * w)))
    assert (name, found.fixed) == ("fsq", 18)
    assert (found.least, found.most) == (pytest.approx(min(bits)), pytest.approx(max(bits)))
    assert found.bits == pytest.approx(sum(bits) / len(bits))
    assert found.bits < 18
    slow, fast = sorted(zip([row["motion"] for row in rows], bits, strict=True))
    groups = [Group(most=motion, clips=1, bits=pytest.approx(one)) for motion, one in (slow, fast)]
    assert found.by == {"motion": groups}
    [line] = [line for line in result.lines() if line.startswith("bits")]
    assert f"fsq: {found.bits:.2f} of 18.00 bits a token (" in line
