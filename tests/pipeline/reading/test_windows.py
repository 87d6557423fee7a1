"""Windows of whole videos: one shape, at places that can be repeated and that batches name."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import Normalize, TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenDataset
from pipeline.reading.spans import Window, window_of
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY
from tests.pipeline.reading.worlds import world_batches
from tests.pipeline.units import make_clip

FRAMES = [1, 9, 12, 13, 14, 17, 30, 41, 8, 25, 100, 33, 29, 16, 50, 18, 21, 22, 10, 64]
"""Numbers of frames of the videos."""
KL = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="made",
    fingerprint="0",
    causal_factor=4,
    normalize=Normalize(shift=(0.0,) * 60, scale=tuple([1.0] * 30 + [2.0] * 30)),
)


def latents(n: int) -> np.ndarray:
    """Return the latents [2, t, 1, 1] of a video: channel 0 counts latent frames."""
    t = -(-FRAMES[n] // 4)
    return np.stack([np.arange(t), np.full(t, n)]).astype("f2").reshape(2, t, 1, 1)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    store = Store(str(tmp_path_factory.mktemp("windows") / "out"))
    facts = {"kind": "latents", "channels": 2, "codebook_size": None, "levels": []}
    clip = {"whole": True, "chunk_frames": 16, "height": 16, "width": 16, "fps": None}
    identity = IDENTITY | {"clip": clip, "tokenizers": {"kl": {"weights": "a", "facts": facts}}}
    dataset = new_dataset((KL,), identity)
    open_dataset(store, dataset)
    name = "allx16x16"
    with PartWriter(store, dataset.schema, unit="u", bucket=name, row_group_bytes=900) as writer:
        for n, frames in enumerate(FRAMES):
            whole = replace(
                make_clip("u", n), num_frames=frames, padded_frames=0, start_s=1.0, end_s=1 + frames
            )
            rows = clip_rows([whole], {"kl": latents(n)[np.newaxis]}, dataset.schema)
            writer.add(pa.Table.from_batches([rows]))
        parts = writer.publish()
    record = UnitRecord(
        unit="u",
        sources=("u",),
        parts=tuple(parts),
        quarantine=None,
        counts=Counts(clips_seen=len(FRAMES), clips_written=len(FRAMES)),
        reasons={},
        timings={},
        statistics={},
    )
    CommitLog(store, fingerprint=dataset.fingerprint, run="a test").append([record])
    return pipeline.open(store.uri)


def maker(snapshot: Any, **options: Any) -> Any:
    options = {"batch": 3, "pool_rows": 6, "strands": 2, "window": 4} | options
    return partial(TokenDataset, snapshot, ["kl", "clip_id", "num_frames"], **options)


LONG = [n for n, frames in enumerate(FRAMES) if frames > 12]


@given(
    ranks=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=2, max_size=2),
    stop=st.integers(0, 3),
    epoch=st.integers(0, 2),
)
@settings(max_examples=8)
def test_every_long_video_once_with_the_same_window_in_every_world(
    snapshot: Snapshot, ranks: list[tuple[int, int]], stop: int, epoch: int
) -> None:
    def places(batches: list[list[dict[str, Any]]]) -> list[tuple[int, int]]:
        return [
            (int(latent[1, 0, 0, 0]), int(first))
            for each in batches
            for batch in each
            for latent, first in zip(batch["kl"], batch["window_latent"], strict=True)
        ]

    [alone], _ = world_batches(maker(snapshot), 1, 0, epoch)
    seen, state = [], None
    for place, (count, workers) in enumerate(ranks):
        batches, datasets = world_batches(maker(snapshot), count, workers, epoch, state)
        if place == 0:
            batches = [each[:stop] for each in batches]
            last = [each[-1] for each in batches if len(each) == stop > 0]
            if len(last) < count:
                batches = [[] for _ in batches]
            else:
                state = datasets[0].state_after(last[0])
        seen += places(batches)
    assert sorted(seen) == sorted(places([alone]))
    assert sorted(n for n, _ in seen) == LONG


def test_a_window_is_where_the_batch_says(snapshot: Snapshot) -> None:
    data = maker(snapshot)()
    assert data.left_out == len(FRAMES) - len(LONG)
    firsts = []
    for batch in data:
        assert batch["kl"].shape[1:] == (2, 4, 1, 1)
        for n, latent in enumerate(batch["kl"]):
            first, frames = int(batch["window_latent"][n]), int(batch["num_frames"][n])
            assert latent[0].flatten().tolist() == [first, first + 1, first + 2, first + 3]
            # The video ends with its last latent frame, and each stands for four frames.
            frame = 0 if first == 0 else frames - 4 * (-(-frames // 4) - first)
            assert batch["window_frame"][n] == frame
            assert batch["window_s"][n] == 1 + frame
            firsts.append((frames, first))
    assert any(first > 0 for _, first in firsts)
    assert {first for frames, first in firsts if frames in (13, 14, 16)} == {0}


def test_windows_differ_by_epoch_and_seed(snapshot: Snapshot) -> None:
    def firsts(epoch: int, **options: Any) -> dict[int, int]:
        [batches], _ = world_batches(maker(snapshot, **options), 1, 0, epoch)
        return {
            int(latent[1, 0, 0, 0]): int(first)
            for batch in batches
            for latent, first in zip(batch["kl"], batch["window_latent"], strict=True)
        }

    assert firsts(0) == firsts(0)
    assert len({str(sorted(firsts(*key).items())) for key in [(0,), (1,), (2,)]}) == 3
    assert firsts(0) != firsts(0, seed=1)
    assert set(firsts(0, start="first").values()) == {0}
    [batches], _ = world_batches(maker(snapshot, start="first"), 1, 0)
    assert all((batch["window_s"] == 1).all() for batch in batches)
    at_100 = [firsts(epoch)[10] for epoch in range(40)]
    assert min(at_100) < 6 < 16 < max(at_100) <= 21, "25 latent frames hold 22 windows of four"


def test_normalisation_by_latent_frame_is_that_of_the_window(snapshot: Snapshot) -> None:
    for batch in maker(snapshot, normalized=True, window=2)():
        for latent, first in zip(batch["kl"], batch["window_latent"], strict=True):
            assert latent[0, :, 0, 0].tolist() == [first, first + 1]
            assert latent[1, 0, 0, 0] / 2 in range(len(FRAMES))


def test_windows_of_a_join_are_those_of_one_dataset(snapshot: Snapshot, tmp_path: Path) -> None:
    scores = pa.table({"clip_id": [f"u/k{n // 2}/{n % 2}" for n in range(20)], "n": range(20)})
    pa.parquet.write_table(scores, tmp_path / "scores.parquet")
    joined = snapshot.join(str(tmp_path / "scores.parquet"))
    data = TokenDataset(joined, ["n", "kl"], 3, window=4, split="train", holdout=0.3)
    seen = 0
    for batch in data:
        assert torch.equal(batch["n"], batch["kl"][:, 1, 0, 0, 0].long())
        assert torch.equal(batch["window_latent"], batch["kl"][:, 0, 0, 0, 0].long())
        seen += len(batch["n"])
    assert 0 < seen < len(LONG)


@given(st.integers(1, 60), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]))
def test_the_first_frame_of_each_latent_frame(frames: int, every: int, f: int) -> None:
    taken = range(0, frames, every)
    latents = [taken[max(0, stop - f)] for stop in range(len(taken), 0, -f)][::-1]
    window = Window(1, f * every, every)
    assert [window.first_frame(n, frames) for n in range(len(latents))] == latents
    assert {window.first(draw, frames) for draw in range(100)} == set(range(len(latents)))


def test_what_cannot_be_cut_is_refused(snapshot: Snapshot) -> None:
    columns = {"a": KL, "b": replace(KL, causal_factor=8), "c": replace(KL, causal_factor=None)}
    buckets = ["allx16x16"]
    assert window_of(3, "first", {"a": KL}, buckets) == Window(3, 4)
    for names, text in (("ab", "a 4, b 8"), ("ac", "a 4, c unknown"), ("", "none is read")):
        with pytest.raises(ConfigError, match=f"one number of frames per latent frame: {text}"):
            window_of(3, "first", {name: columns[name] for name in names}, buckets)
    with pytest.raises(ConfigError, match="window = 3: bucket 5x16x16 holds clips of one length"):
        window_of(3, "first", {"a": KL}, ["5x16x16", "allx16x16"])
    for options, text in (
        ({"start": "last"}, "start = 'last': must be first or random"),
        ({"window": 0}, "window = 0: must be 1 or more latent frames"),
        ({"frames": 9}, "frames, first_frame and window: set one of them"),
        ({"frames": 9, "window": None}, "bucket allx16x16 holds whole videos; use window="),
        ({"sequence": 2, "window": None}, "allx16x16 holds whole videos, each of which is one"),
    ):
        with pytest.raises(ConfigError, match=text):
            maker(snapshot, **options)()
