"""Formats, read by their own libraries: names, types and values that their trainers expect."""

import io
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from webdataset import tariterators

from pipeline.operations.export.export import Exported, export
from pipeline.records import Bucket
from pipeline.storage.store import Store
from tests.pipeline.operations.export.worlds import (
    LTX2,
    NORMALIZE,
    WAN,
    clips_of,
    latent_of,
    text_of,
    write_latents,
    write_texts,
)
from tests.pipeline.units import SMALL, WIDE

UNITS = {"a": 5, "b": 4}
CLIPS = {
    clip.clip_id: (bucket, clip)
    for unit, count in UNITS.items()
    for bucket, clips in clips_of(unit, count).items()
    for clip in clips
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A dataset of Wan's and LTX-2's latents, and its text embeddings."""
    folder = tmp_path_factory.mktemp("world")
    latents, texts = Store(str(folder / "latents")), Store(str(folder / "texts"))
    write_latents(latents, UNITS, WAN, LTX2)
    write_texts(texts, latents, UNITS)
    return latents.uri, texts.uri


def whole(exported: Exported) -> None:
    assert exported.exit_code == 0
    assert (exported.rows, exported.clips, exported.left_out) == (len(CLIPS), len(CLIPS), {})


def normalized(latent: np.ndarray) -> np.ndarray:
    """Return a latent as its generator is trained with, written out."""
    shift, scale = (np.array(v, np.float32)[:, None, None, None] for v in vars_of(NORMALIZE))
    return (latent.astype(np.float32) - shift) * scale


def vars_of(rule: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return rule.shift, rule.scale  # type: ignore[attr-defined]


def raw(column: str, clip_id: str) -> np.ndarray:
    return latent_of(column, clip_id, CLIPS[clip_id][0])


def test_fastvideo_reads_float32_columns_that_are_not_normalised(
    world: tuple[str, str], tmp_path: Path
) -> None:
    latents, texts = world
    whole(export(latents, "fastvideo", str(tmp_path), text=texts))
    found = {}
    for bucket in (SMALL, WIDE):
        for path in sorted((tmp_path / bucket.name).glob("*.parquet")):
            file = pq.ParquetFile(path)
            names = [field.name for field in file.schema_arrow]
            assert names == [
                *("id", "vae_latent_bytes", "vae_latent_shape", "vae_latent_dtype"),
                *("text_embedding_bytes", "text_embedding_shape", "text_embedding_dtype"),
                *("file_name", "caption", "media_type", "width", "height"),
                *("num_frames", "duration_sec", "fps"),
            ]
            for row in file.read().to_pylist():
                found[row["id"]] = row
                assert (row["width"], row["height"]) == (bucket.width, bucket.height)
    assert found.keys() == CLIPS.keys()
    for clip_id, row in found.items():
        bucket, clip = CLIPS[clip_id]
        assert row["vae_latent_dtype"] == row["text_embedding_dtype"] == "float32"
        cells = np.frombuffer(row["vae_latent_bytes"], np.float32).reshape(row["vae_latent_shape"])
        assert (cells == raw("wan", clip_id)).all()
        assert row["num_frames"] == cells.shape[1]
        text = np.frombuffer(row["text_embedding_bytes"], np.float32)
        assert (text.reshape(row["text_embedding_shape"]) == text_of(clip.caption or "")).all()
        assert (row["caption"], row["media_type"]) == (clip.caption or "", "video")
        assert (row["fps"], row["duration_sec"]) == (8.0, clip.num_frames / 8)


def test_musubi_reads_normalised_latents_from_names_that_say_the_shape(
    world: tuple[str, str], tmp_path: Path
) -> None:
    latents, texts = world
    whole(export(latents, "musubi", str(tmp_path), text=texts))
    seen = 0
    for bucket in (SMALL, WIDE):
        for path in (tmp_path / bucket.name).glob("*_wan.safetensors"):
            seen += 1
            key, frames, size, _ = path.name.split("_")
            assert frames == f"00000-{bucket.frames:03d}"
            assert size == f"{bucket.width:04d}x{bucket.height:04d}"
            [(clip_id, clip)] = [
                (clip_id, clip)
                for clip_id, (shape, clip) in CLIPS.items()
                if shape == bucket and hash_name(clip_id) == key
            ]
            cells = normalized(raw("wan", clip_id))
            with safe_open(path, "pt") as file:
                assert file.metadata() == {
                    "architecture": "wan",
                    "width": str(bucket.width),
                    "height": str(bucket.height),
                    "format_version": "1.0.1",
                    "frame_count": str(bucket.frames),
                }
                _, t, h, w = cells.shape
                assert list(file.keys()) == [f"latents_{t}x{h}x{w}_bfloat16"]
                tensor = file.get_tensor(f"latents_{t}x{h}x{w}_bfloat16")
            assert tensor.equal(torch.from_numpy(cells).bfloat16())
            with safe_open(path.parent / f"{key}_wan_te.safetensors", "pt") as file:
                assert file.metadata()["caption1"] == (clip.caption or "")
                tensor = file.get_tensor("varlen_t5_bfloat16")
            assert tensor.equal(torch.from_numpy(text_of(clip.caption or "")).bfloat16())
    assert seen == len(CLIPS)


def hash_name(clip_id: str) -> str:
    return sha256(clip_id.encode()).hexdigest()[:32]


def test_ltx2_reads_normalised_latents_and_its_own_script_the_captions(
    world: tuple[str, str], tmp_path: Path
) -> None:
    whole(export(world[0], "ltx2", str(tmp_path)))
    seen = set()
    for bucket in (SMALL, WIDE):
        for path in (tmp_path / bucket.name / "captions").glob("*.jsonl"):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                assert CLIPS[entry["clip_id"]][1].caption or entry["caption"] == ""
                seen.add(entry["clip_id"])
                stem = Path(entry["media_path"]).with_suffix(".pt")
                file = tmp_path / bucket.name / "latents" / stem
                values = torch.load(file, weights_only=True)
                cells = normalized(raw("ltx", entry["clip_id"]))
                assert values.pop("latents").equal(torch.from_numpy(cells).bfloat16())
                _, t, h, w = cells.shape
                assert values == {"num_frames": t, "height": h, "width": w, "fps": 8.0}
    assert seen == CLIPS.keys()


@pytest.mark.parametrize("with_text", [False, True])
def test_webdataset_reads_what_is_stored(
    world: tuple[str, str], tmp_path: Path, with_text: bool
) -> None:
    latents, texts = world
    text = texts if with_text else None
    whole(export(latents, "webdataset", str(tmp_path), column="wan", text=text))
    seen = set()
    for sample in samples_in(tmp_path):
        about = json.loads(sample["json"])
        bucket, clip = CLIPS[about["clip_id"]]
        seen.add(about["clip_id"])
        assert sample["__key__"].split("/")[-1] == hash_name(about["clip_id"])
        assert (np.load(io.BytesIO(sample["cells.npy"])) == raw("wan", about["clip_id"])).all()
        assert ("text.npy" in sample) == with_text
        if with_text:
            found = np.load(io.BytesIO(sample["text.npy"]))
            assert (found == text_of(clip.caption or "")).all()
        assert (about["key"], about["caption"], about["meta"]) == (
            clip.key,
            clip.caption,
            clip.meta,
        )
        assert Bucket(frames=about["num_frames"], height=about["height"], width=about["width"]) == (
            bucket
        )
    assert seen == CLIPS.keys()


def samples_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of all shards as WebDataset finds them; it would not close the files."""
    for path in sorted(folder.glob("*/*.tar")):
        with path.open("rb") as stream:
            members = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            yield from tariterators.group_by_keys(members)


def test_a_shard_ends_at_its_size(world: tuple[str, str], tmp_path: Path) -> None:
    export(world[0], "webdataset", str(tmp_path), column="wan", shard_bytes=1)
    assert len(list(tmp_path.glob("*/*.tar"))) == len(CLIPS)
