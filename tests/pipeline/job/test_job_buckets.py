"""A job with several clip shapes: each video whole in its bucket, with that bucket's tokens."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import vidtok
from pipeline.decode import Decoder, clip_rules
from pipeline.manifest import read_manifest
from pipeline.records import Sample
from pipeline.storage import Store
from pipeline.verify import verify
from tests.assets import BIKES, GOOD, VIDTOK_EXAMPLE
from tests.pipeline.job.conftest import committed_rows, content, job, pack, tokenized

CLIP = {
    "fps": 8.0,
    "short": "pad",
    "buckets": [
        {"frames": 9, "height": 32, "width": 32},
        {"frames": 9, "height": 24, "width": 56},
        {"frames": 5, "height": 56, "width": 32},
    ],
}
VIDEOS = [asset for asset in GOOD if min(asset.height, asset.width) > 64]

Committed = tuple[list[str], Path, pa.Table]


@pytest.fixture(scope="module")
def committed(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Committed:
    folder = tmp_path_factory.mktemp("buckets")
    tars = pack(folder / "tars", [asset.path for asset in VIDEOS], per_tar=5)
    config = job(tars, folder / "out", clip=CLIP)
    tokenized(config)
    return tars, folder / "out", committed_rows(folder / "out")


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
        for asset, (_, height, width) in ((VIDTOK_EXAMPLE, (9, 32, 32)), (BIKES, (9, 24, 56))):
            shape = {"frames": 9, "height": height, "width": width}
            rules = clip_rules({"fps": 8.0, "short": "pad", "resize": "uint8"} | shape)
            sample = Sample(key="k", video=str(asset.path), video_name=asset.path.name)
            with Decoder(rules) as decoder:
                clips = [frames for _, frames in decoder.decode(sample, "u")]
            mine = rows.filter(pa.compute.equal(rows["key"], asset.path.stem)).to_pylist()
            assert len(mine) == len(clips)
            for row, frames in zip(mine, clips, strict=True):
                assert frames is not None
                video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
                indices = np.frombuffer(row["fsq"], "<u4").reshape(row["fsq_shape"])
                np.testing.assert_array_equal(indices, model.encode(video).indices[0])
    finally:
        torch.set_num_threads(threads)


def test_verify_makes_the_same_tokens_again_from_the_sources(committed: Committed) -> None:
    _, output, rows = committed
    found = verify(Store(str(output)), retokenize=12, decode=6)
    assert found.findings == []
    assert (found.rows, found.retokenized) == (rows.num_rows, 12)
    assert "9 frames of 32×32 or 9 frames of 24×56 or 5 frames of 56×32 pixels" in (
        output / "README.md"
    ).read_text(encoding="utf-8")


def test_other_shards_actors_and_order_give_the_same_bits(
    committed: Committed, tmp_path: Path
) -> None:
    _, _, rows = committed
    tars = pack(tmp_path / "tars", [asset.path for asset in VIDEOS[::-1]], per_tar=4)
    config = job(tars[::-1], tmp_path / "out", clip=CLIP, decode__actors=2, tokenize__actors=2)
    tokenized(config)
    assert content(committed_rows(tmp_path / "out")).equals(content(rows))
