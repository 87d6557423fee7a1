"""Clips taken back to their source: the same bits again, and PSNR as by hand."""

import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vidtok
from pipeline.config.job import JobConfig
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.row_sampling import draw_rows
from pipeline.errors import ConfigError
from pipeline.operations.findings import Finding
from pipeline.operations.recompute import Recomputer, SourceClip
from pipeline.operations.verify.verify import verify
from pipeline.records import Sample
from pipeline.storage.store import Store
from pipeline.tokenizers.reconstruction import clip_psnr
from tests.pipeline.tokenized import VIDEOS, tokenized
from vidtok.checkpoint import save

CLIP = {"frames": 5, "height": 32, "width": 40, "fps": 4.0, "short": "drop"}
MODELS = {"fsq": "vidtok_fsq_causal_488_262144_tiny", "kl": "vidtok_kl_causal_488_8chn_tiny"}
TOKENIZERS = ["fsq", "kl", "kl6"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobConfig, Store]:
    """A tar and a folder of two videos each, through both narrow models."""
    folder = tmp_path_factory.mktemp("corpus")
    with tarfile.open(folder / "shard.tar", "w", dereference=True) as tar:
        for name in ("hiker_tiny.mp4", "odd/video_180.mov"):
            tar.add(VIDEOS / name, arcname=Path(name).name)
    # The key b/x.mp4 is also how the path of another file of its unit ends.
    for name, video in (("a/b/x.mp4", "odd/video_90.mov"), ("b/x.mp4", "hiker_tiny.mp4")):
        (folder / "loose" / name).parent.mkdir(parents=True)
        shutil.copy(VIDEOS / video, folder / "loose" / name)
    specs = []
    for seed, (name, model) in enumerate(MODELS.items()):
        weights = folder / f"{name}.safetensors"
        save(vidtok.build(model, seed=seed + 5), weights)
        specs.append({"name": name, "model": model, "weights": str(weights), "logvar": seed == 1})
    specs.append({**specs[1], "name": "kl6", "dtype": "uint8", "bits": 6, "logvar": False})
    config = JobConfig.model_validate(
        {
            "source": {"uri": [str(folder / "shard.tar"), str(folder / "loose")]},
            "clip": CLIP,
            "tokenizers": specs,
            "output": {"uri": str(folder / "out")},
        }
    )
    return config, tokenized(config)


def test_every_clip_comes_out_the_same_again(corpus: tuple[JobConfig, Store]) -> None:
    _, store = corpus
    result = verify(store, retokenize=1000, decode=2)
    assert result.findings == []
    assert result.clips_retokenized == read_manifest(store).counts().clips_written > 4
    assert {name: len(values) for name, values in result.psnr_db.items()} == dict.fromkeys(
        TOKENIZERS, 2
    )
    assert sum(line.startswith("decoded    ") for line in result.lines()) == 3


def test_clips_of_several_buckets_do_too(corpus: tuple[JobConfig, Store], tmp_path: Path) -> None:
    config, _ = corpus
    shapes = [(9, 32, 32), (9, 32, 48), (5, 48, 32)]
    buckets = [dict(zip(("frames", "height", "width"), shape, strict=True)) for shape in shapes]
    values = config.model_dump() | {
        "clip": {"buckets": buckets, "fps": 4.0, "short": "pad"},
        "output": {"uri": str(tmp_path / "out")},
    }
    store = tokenized(JobConfig.model_validate(values))
    parts = read_manifest(store).parts()
    # The hiker is long and wide, twice; of the three frames that are left one is upright, and
    # one is wide with nothing else for its length.
    assert sorted((part.bucket, part.rows) for part in parts) == [
        ("5x48x32", 1),
        ("5x48x32", 1),
        ("9x32x48", 3),
        ("9x32x48", 3),
    ]
    result = verify(store, retokenize=1000, decode=3)
    assert result.findings == []
    assert result.clips_retokenized == 8
    assert len(result.psnr_db["fsq"]) == 3


@dataclass(frozen=True)
class Known:
    """One row, and its clip from the source."""

    found: SourceClip
    recomputer: Recomputer


@pytest.fixture(scope="module")
def known(corpus: tuple[JobConfig, Store]) -> Iterator[Known]:
    _, store = corpus
    [drawn] = draw_rows(read_manifest(store), 1, seed=3)
    dataset = read_dataset(store)
    with closing(Recomputer(store, dataset, retokenize=True, decode=True)) as recomputer:
        [found] = recomputer.clips([drawn])
        assert not isinstance(found, Finding)
        yield Known(found, recomputer)


def test_psnr_is_that_of_decoding_by_hand(corpus: tuple[JobConfig, Store], known: Known) -> None:
    row = known.found.row
    found = known.recomputer.decode(known.found).psnr_db
    assert not isinstance(known.found.frames, Sample)
    assert list(found) == TOKENIZERS
    for spec in corpus[0].tokenizers:
        assert spec.weights is not None
        model = vidtok.load(spec.weights, config=spec.model)
        if spec.name == "fsq":
            cells = np.frombuffer(row["fsq"], "<u4").reshape(1, *row["fsq_shape"])
            video = model.decode_indices(torch.from_numpy(cells.astype(np.int64)), num_frames=5)
        elif spec.name == "kl6":
            low, step = np.float32(row["kl6_scale"]).reshape(2, -1, 1, 1, 1)
            cells = low + step * np.frombuffer(row["kl6"], "u1").reshape(row["kl6_shape"])
            video = model.decode(torch.from_numpy(cells[np.newaxis]), num_frames=5)
        else:
            cells = np.frombuffer(row["kl"], "<f2").reshape(1, *row["kl_shape"])
            video = model.decode(torch.from_numpy(cells.astype(np.float32)), num_frames=5)
        shown = ((video[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).round().numpy()
        error = ((known.found.frames.astype(np.float64) - shown) ** 2).mean((1, 2, 3)) / 255**2
        expected = float(-10 * np.log10(error + 1e-8).mean())
        assert found[spec.name] == pytest.approx(expected, abs=1e-3)


def flip(cells: bytes) -> bytes:
    return bytes([cells[0] ^ 1]) + cells[1:]


@pytest.mark.parametrize(
    ("name", "act", "kind", "text"),
    [
        ("fsq", flip, "tokens", "fsq: 1 of 40 cells differ"),
        ("fsq", lambda cells: cells[4:], "tokens", "fsq: [2, 4, 5] now, 39 cells recorded"),
        ("kl_logvar", flip, "tokens", "kl_logvar: 1 of 320 cells differ, by "),
        ("kl6", flip, "tokens", "kl6: 1 of 320 cells differ, by 1 at most"),
        ("kl6_scale", lambda scale: [7.0, *scale[1:]], "tokens", "kl6_scale: ["),
        ("start_s", lambda value: value - 0.25, "source", "start_s "),
        ("crop", lambda crop: [1.0, *crop[1:]], "source", "crop "),
    ],
)
def test_what_differs_is_named(
    known: Known, name: str, act: Callable[[Any], Any], kind: str, text: str
) -> None:
    assert list(known.recomputer.retokenize(known.found)) == []
    row = {**known.found.row, name: act(known.found.row[name])}
    [found] = known.recomputer.retokenize(replace(known.found, row=row))
    assert (found.kind, found.where) == (kind, row["clip_id"])
    assert found.detail.startswith(text)


def test_a_source_that_is_gone_or_another(corpus: tuple[JobConfig, Store], tmp_path: Path) -> None:
    shutil.copytree(corpus[1].uri, tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    manifest = read_manifest(store)
    gone, short = tmp_path / "gone.tar", tmp_path / "short.tar"
    with tarfile.open(short, "w", dereference=True) as tar:
        tar.add(VIDEOS / "odd/video_180.mov", arcname="other.mov")
    for source, text in (
        (gone, "missing, although it existed when the job was planned"),
        (short, f"not in {short}"),
    ):
        for path in store.list("log"):
            store.delete(path)
        [unit] = [u for u in manifest.units() if u.sources[0].endswith(".tar")]
        record = replace(unit, sources=(str(source),))
        CommitLog(store, fingerprint=str(manifest.fingerprint)).append([record])
        found = verify(store, retokenize=1).findings
        assert [f.kind for f in found] == ["source"]
        assert text in found[0].detail


def test_other_weights_than_the_dataset_s(
    corpus: tuple[JobConfig, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tokenizers.models.weights_digest", lambda model: "0" * 32)
    with pytest.raises(ConfigError, match=r"tokenizer fsq: weights = .*digest 0{32}, but the job"):
        verify(corpus[1], retokenize=1)


def test_draws_do_not_repeat_and_cover_all(corpus: tuple[JobConfig, Store]) -> None:
    manifest = read_manifest(corpus[1])
    total = manifest.counts().clips_written
    drawn = draw_rows(manifest, 10**6, seed=1)
    assert len({(row.part.path, row.n) for row in drawn}) == len(drawn) == total
    assert draw_rows(manifest, 3, seed=1) == draw_rows(manifest, 3, seed=1)
    assert draw_rows(manifest, 3, seed=1) != draw_rows(manifest, 3, seed=2)
    first = manifest.parts()[0]
    rest = draw_rows(manifest, 10**6, seed=1, leave_out={first.path})
    assert len(rest) == total - first.rows
    assert all(row.part != first for row in rest)


def test_psnr_of_equal_and_of_opposite_clips() -> None:
    black, white = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 255, np.uint8)
    assert clip_psnr(black, black) == pytest.approx(80)
    assert clip_psnr(black, white) == pytest.approx(0, abs=1e-4)
