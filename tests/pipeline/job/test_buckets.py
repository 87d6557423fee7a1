"""A job with several clip shapes: each video whole in its bucket, with that bucket's tokens.

One of its tokenizers is an autoencoder of diffusers. Other batches and another order of the units
give the same bits, statistics and quality. `tests/jobs/test_hostile.py` has such a job on Ray.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import vidtok
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.decode import Decoder, clip_rules
from pipeline.operations.stats import stats
from pipeline.operations.verify.verify import verify
from pipeline.records import Sample, to_json
from pipeline.storage.store import Store
from tests.assets import BIKES, HIKER, ROTATED, TEN_BITS, VFR, VIDTOK_EXAMPLE
from tests.jobs.conftest import JOB, committed_rows, job, pack, tokenized
from tests.pipeline.in_process import without_ray
from tests.pipeline.tokenized import tokenized as tokenized_one_by_one
from tests.pipeline.tokenizers.small_vaes import save

CLIP = {
    "fps": 8.0,
    "short": "pad",
    "buckets": [
        {"frames": 9, "height": 32, "width": 32},
        {"frames": 9, "height": 24, "width": 56},
        {"frames": 5, "height": 56, "width": 32},
    ],
}
DECODED_BACK = 3
VIDEOS = (BIKES, VIDTOK_EXAMPLE, HIKER, VFR, *ROTATED, *TEN_BITS)

Committed = tuple[list[str], Path, pa.Table]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Committed:
    """Tars; the output of a job over them; its rows."""
    folder = tmp_path_factory.mktemp("buckets")
    tars = pack(folder / "tars", [asset.path for asset in VIDEOS], per_tar=3)
    weights = save(folder / "vae", "AutoencoderKLWan")
    config = job(
        tars[::-1],
        folder / "out",
        clip=CLIP,
        tokenizers=tokenizers(weights, (3, 7, 5)),
        tokenize__decode_back_one_in=DECODED_BACK,
    )
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        summary = tokenized(config)
    assert [line[:10] for line in summary.lines()].count("psnr      ") == 3
    return tars, folder / "out", committed_rows(folder / "out")


def tokenizers(weights: str, batches: tuple[int, int, int]) -> list[dict[str, Any]]:
    wan = {"name": "wan", "model": "diffusers:AutoencoderKLWan", "weights": weights}
    specs = [*JOB["tokenizers"], wan | {"logvar": True}]
    return [spec | {"batch": batch} for spec, batch in zip(specs, batches, strict=True)]


def test_each_video_lies_in_its_bucket(committed: Committed) -> None:
    _, output, rows = committed
    found: dict[str, set[str]] = {}
    for part in read_manifest(Store(str(output))).parts():
        assert part.path.startswith(f"data/{part.bucket}/")
        for key in pq.read_table(output / part.path)["key"].to_pylist():
            found.setdefault(key, set()).add(part.bucket)
    for asset in VIDEOS:
        key = asset.path.stem
        short = asset.picks_at_8_fps < 9
        bucket = "5x56x32" if short else "9x32x32" if asset is VIDTOK_EXAMPLE else "9x24x56"
        assert found.pop(key) == {bucket}, key
        mine = rows.filter(pa.compute.equal(rows["key"], key))
        clips = -(-asset.picks_at_8_fps // (5 if short else 9))
        assert mine["clip_index"].to_pylist() == list(range(clips))
    assert not found


def test_a_clip_has_the_tokens_that_the_model_by_hand_gives(committed: Committed) -> None:
    _, _, rows = committed
    model = vidtok.load("vidtok_fsq_causal_488_262144_tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shape = {"frames": 9, "height": 24, "width": 56}
        rules = clip_rules({"fps": 8.0, "short": "pad", "resize": "uint8"} | shape)
        sample = Sample(key="k", video=str(BIKES.path), video_name=BIKES.path.name)
        with Decoder(rules) as decoder:
            clips = [frames for _, frames in decoder.decode(sample, "u")]
        mine = rows.filter(pa.compute.equal(rows["key"], BIKES.path.stem)).to_pylist()
        for row, frames in zip(mine, clips, strict=True):
            assert frames is not None
            video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
            indices = np.frombuffer(row["fsq"], "<u4").reshape(row["fsq_shape"])
            np.testing.assert_array_equal(indices, model.encode(video).indices[0])
    finally:
        torch.set_num_threads(threads)


def test_verify_makes_the_same_tokens_again_from_the_sources(committed: Committed) -> None:
    _, output, rows = committed
    found = verify(Store(str(output)), retokenize=4)
    assert found.findings == []
    assert (found.rows_checked, found.clips_retokenized) == (rows.num_rows, 4)
    assert "9 frames of 32×32 or 9 frames of 24×56 or 5 frames of 56×32 pixels" in (
        output / "README.md"
    ).read_text(encoding="utf-8")


def test_other_batches_and_another_order_give_the_same_files_and_quality(
    committed: Committed, tmp_path: Path
) -> None:
    tars, output, rows = committed
    config = job(
        tars,
        tmp_path / "out",
        clip=CLIP,
        tokenizers=tokenizers(str(output.parent / "vae"), (4, 4, 4)),
        tokenize__decode_back_one_in=DECODED_BACK,
    )
    stores = [Store(str(output)), tokenized_one_by_one(config)]
    assert committed_rows(stores[1]).equals(rows)
    one, other = (read_manifest(store).parts() for store in stores)
    assert sorted(part.sha256 for part in one) == sorted(part.sha256 for part in other)
    assert {part.bucket for part in one} == {"9x32x32", "9x24x56", "5x56x32"}
    assert [len(read_dataset(store).probes["wan"]) for store in stores] == [64, 64]
    assert any("wan" in line for line in stats(stores[0]).lines())
    for unit, same in zip(*map(_units, stores), strict=True):
        assert unit == same


def _units(store: Store) -> list[tuple[str, list[bytes]]]:
    """Return the units by name, with the bytes of their statistics by bucket."""
    return sorted(
        (unit.unit, [to_json(bucket) for bucket in unit.statistics.values()])
        for unit in read_manifest(store).units()
    )
