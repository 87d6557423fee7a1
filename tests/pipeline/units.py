"""A unit as decode and tokenize deliver it, for tests of all that comes after them."""

import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.parquet_file import parquet_writer, seal
from pipeline.dataset.records import Counts, Part, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema, packed_schema
from pipeline.dataset.statistics import BucketStatistics, LatentSums, LevelCounts, PsnrSums
from pipeline.quarantine import Quarantined
from pipeline.records import Bucket, Clip, WorkUnit
from pipeline.stages.messages import BatchHeader, Closing, PayloadHeader, encode_rows
from pipeline.storage.store import Store

FSQ = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint16",
    axes=("t", "h", "w"),
    model="vidtok_fsq_causal_488_32768",
    fingerprint="f" * 32,
    codebook_size=32768,
)
KL = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="vidtok_kl_causal_488_16chn",
    fingerprint="e" * 32,
    logvar=True,
)
SCHEMA = clip_schema([FSQ, KL])
LEVELS = {"fsq": (8, 8, 8, 8, 8)}
SMALL = Bucket(frames=5, height=16, width=16)
WIDE = Bucket(frames=9, height=16, width=32)


@dataclass
class Delivery:
    """What the commit gets for one unit."""

    unit: WorkUnit
    closing: Closing
    payloads: list[tuple[PayloadHeader, bytes]]


def make_clip(unit: str, n: int) -> Clip:
    return Clip(
        unit=unit,
        key=f"k{n // 2}",
        clip_index=n % 2,
        start_s=n % 2 * 0.5,
        end_s=n % 2 * 0.5 + 0.5,
        source_fps=29.97,
        source_height=480,
        source_width=640,
        crop=(0.0, 80.0, 480.0, 480.0),
        num_frames=5,
        padded_frames=n % 3,
        caption=None if n % 3 == 0 else f"clip {n}",
        meta=None if n % 2 else f'{{"json": {{"n": {n}}}}}',
    )


def make_cells(clips: Sequence[Clip], bucket: Bucket, scale: int = 1) -> dict[str, np.ndarray]:
    t, h, w = 1 + (bucket.frames - 1) // 4, bucket.height // 8 * scale, bucket.width // 8 * scale
    count = len(clips)
    seed = sum(map(ord, "".join(clip.clip_id for clip in clips)))
    rng = np.random.default_rng(seed)
    return {
        "fsq": rng.integers(0, 32768, (count, t, h, w), dtype=np.uint16),
        "kl": rng.standard_normal((count, 4, t, h, w)).astype(np.float16),
        "kl_logvar": rng.standard_normal((count, 4, t, h, w)).astype(np.float16),
    }


def make_payload(
    seq: int,
    bucket: Bucket,
    clips: Sequence[Clip],
    *,
    lost: Sequence[Clip] = (),
    schema: pa.Schema = SCHEMA,
    scale: int = 1,
) -> tuple[PayloadHeader, bytes]:
    """Return the payload of one batch row; the tokenizer quarantined the clips `lost`."""
    batch = BatchHeader(unit=clips[0].unit, seq=seq, bucket=bucket, clips=tuple(clips))
    header = PayloadHeader(
        unit=batch.unit,
        seq=seq,
        digest=batch.digest(),
        bucket=bucket,
        clip_ids=tuple(clip.clip_id for clip in clips),
        quarantined=tuple(quarantine(clip, "non_finite", "tokenize") for clip in lost),
        timings={"tokenize": 0.25},
    )
    alive = [clip for clip in clips if clip not in lost]
    rows = clip_rows(alive, make_cells(alive, bucket, scale), packed_schema(schema))
    return header, encode_rows(rows)


def quarantine(clip: Clip, reason: str, stage: str) -> Quarantined:
    return Quarantined(
        unit=clip.unit,
        key=clip.key,
        clip_index=clip.clip_index,
        stage=stage,  # type: ignore[arg-type]
        reason=reason,
        detail="made by a test",
    )


def deliver(
    name: str = "u-1",
    *,
    batches: Sequence[int] = (3, 3, 2),
    lost: Sequence[int] = (),
    unreadable: int = 1,
    filtered: int = 1,
    scale: int = 1,
) -> Delivery:
    """Return a unit whose batch rows hold `batches` clips, alternating between two buckets."""
    unit = WorkUnit(unit=name, tar_uri=f"/in/{name}.tar")
    clips = [make_clip(name, n) for n in range(sum(batches))]
    dead = [clips[n] for n in lost]
    payloads, start = [], 0
    for seq, size in enumerate(batches):
        here = clips[start : start + size]
        payloads.append(
            make_payload(
                seq,
                (SMALL, WIDE)[seq % 2],
                here,
                lost=[clip for clip in here if clip in dead],
                scale=scale,
            )
        )
        start += size
    samples = len({clip.key for clip in clips})
    broken = [
        Quarantined(
            unit=name, key=f"bad{n}", clip_index=None, stage="decode", reason="corrupt", detail="-"
        )
        for n in range(unreadable)
    ]
    short = [
        Quarantined.too_short(unit=name, key=f"short{n}", frames=2, seconds=0.25, shortest=5)
        for n in range(filtered)
    ]
    counts = Counts(
        samples_read=samples + unreadable + filtered,
        samples_with_clips=samples,
        samples_filtered=filtered,
        samples_quarantined=unreadable,
        clips_seen=len(clips) + filtered + 1,
        clips_written=len(clips),
        clips_filtered=filtered + 1,
        microseconds_decoded=500_000 * (len(clips) + 1) + 250_000 * filtered,
    )
    closing = Closing(
        unit=name,
        digests=tuple(header.digest for header, _ in payloads),
        counts=counts,
        quarantined=(*broken, *short),
        dropped={"tail": 1, **({"too_short": filtered} if filtered else {})},
        timings={"decode": 1.5},
    )
    return Delivery(unit, closing, payloads)


def decoded_back(delivery: Delivery, *psnr_db: float | None) -> Delivery:
    """Return a unit of which the first clip of each payload came back from `fsq` so well."""
    payloads = [
        (replace(header, psnr={"fsq": PsnrSums.of(header.clip_ids[0], value)}), rows)
        for (header, rows), value in zip(delivery.payloads, psnr_db, strict=True)
    ]
    return replace(delivery, payloads=payloads)


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """Return a table as a file of a dataset."""
    file = io.BytesIO()
    with parquet_writer(file, table.schema) as writer:
        writer.write_table(table, **options)
    seal(file)
    return file.getvalue()


def edit_json(store: Store, path: str, old: str, new: str) -> None:
    """Replace text in a record or head, whose checksum is left out as if a person edited it."""
    whole = json.loads(store.read(path).decode().replace(old, new))
    del whole["crc32"]
    store.write(path, json.dumps(whole).encode())


def make_record(name: str, *, sources: tuple[str, ...] = (), seed: int = 0) -> UnitRecord:
    """Return a unit's log record without the files that it names."""
    rng = random.Random(f"{name}{seed}")
    parts = tuple(
        Part(
            path=f"data/{bucket}/{name}-0-{rng.randbytes(8).hex()}.parquet",
            bucket=bucket,
            rows=rng.randrange(1, 100),
            bytes=rng.randrange(1, 10**6),
            sha256=rng.randbytes(32).hex(),
        )
        for bucket in (SMALL.name, WIDE.name)[: rng.randrange(3)]
    )
    rows = sum(part.rows for part in parts)
    bad = rng.randrange(2)
    return UnitRecord(
        unit=name,
        sources=sources or (f"/in/{name}.tar",),
        parts=parts,
        quarantine=replace(parts[0], bucket="", path=f"quarantine/{name}.parquet")
        if parts and bad
        else None,
        counts=Counts(
            samples_read=rows + bad,
            samples_with_clips=rows,
            samples_quarantined=bad,
            clips_seen=rows,
            clips_written=rows,
        ),
        reasons={"corrupt": bad} if bad else {},
        timings={"decode": 1.5, "tokenize": 0.5},
        statistics={
            part.bucket: BucketStatistics(
                clips=part.rows,
                rates={24: part.rows},
                latents={"kl": LatentSums(cells=8, sums=(-(1 << 70), 3), squares=(1 << 99, 4))},
                levels={"fsq": LevelCounts(counts=((part.rows, 100 - part.rows), (8, 0)))},
            )
            for part in parts
        },
    )
