"""Datasets with keys that can be searched for, and the search for them in every byte."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import ForgetResult, forget
from pipeline.operations.forget.requests import Requests, read_requests
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.quarantine import Quarantined
from pipeline.records import WorkUnit
from pipeline.stages.messages import Closing
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, write_log
from tests.pipeline.units import SMALL, WIDE, Delivery, decoded_back, make_clip, make_payload


def keys_of(unit: str, count: int = 4) -> list[str]:
    """Return the keys of a unit's samples: names that occur nowhere by chance."""
    return [f"folder/private-{unit}-{n}" for n in range(count)]


def deliver_keys(
    unit: WorkUnit, keys: Sequence[str], *, lost: Sequence[str] = (), left_out: int = 0
) -> Delivery:
    """Return a unit of two clips for each key, in two buckets.

    Args:
        unit: what was planned.
        keys: keys of the samples that have clips.
        lost: keys of quarantined samples; each has a second record, of a filtered sample.
        left_out: number of samples that decoding left out because they are forgotten.
    """
    clips = [
        replace(make_clip(unit.unit, n), key=key, clip_index=n % 2, caption=f"about {key}")
        for n, key in enumerate(key for key in keys for _ in range(2))
    ]
    payloads = [
        make_payload(seq, bucket, part)
        for seq, (bucket, part) in enumerate(
            [(SMALL, clips[: len(clips) // 2]), (WIDE, clips[len(clips) // 2 :])]
        )
        if part
    ]
    bad = [
        Quarantined(
            unit=unit.unit,
            key=key,
            clip_index=None,
            stage="decode",
            reason="corrupt",
            detail=f"{key} is bad",
        )
        for key in lost
    ]
    short = [
        Quarantined.too_short(unit=unit.unit, key=f"{key}-short", frames=1, seconds=0.1, shortest=5)
        for key in lost
    ]
    counts = Counts(
        samples_read=len(keys) + 2 * len(lost) + left_out,
        samples_with_clips=len(keys),
        samples_filtered=len(lost),
        samples_quarantined=len(lost),
        samples_forgotten=left_out,
        clips_seen=len(clips) + len(lost),
        clips_written=len(clips),
        clips_filtered=len(lost),
        microseconds_decoded=10**9,
    )
    closing = Closing(
        unit=unit.unit,
        digests=tuple(header.digest for header, _ in payloads),
        counts=counts,
        quarantined=(*bad, *short),
        dropped={"too_short": len(lost)} if lost else {},
    )
    made = Delivery(unit, closing, payloads)
    return decoded_back(made, *([20.0] * len(payloads)))


def tar_unit(name: str) -> WorkUnit:
    return WorkUnit(unit=name, tar_uri=f"/in/{name}.tar")


def commit_keys(store: Store, name: str, *, lost: Sequence[str] = ()) -> UnitRecord:
    """Write a unit of a tar; its record is in no log yet."""
    return commit(store, deliver_keys(tar_unit(name), keys_of(name), lost=lost))


def forget_keys(store: Store, *keys: str) -> ForgetResult:
    return forget(store, read_requests(keys, ()))


def requests(**named: Iterable[str]) -> Requests:
    return read_requests(named.get("keys", ()), named.get("sources", ()))


def ids(store: Store) -> list[str]:
    """Return the ids of the rows that count, sorted."""
    found = []
    for part in read_manifest(store).parts():
        with open_parquet(store, part.path) as parquet:
            for rows in unit_rows(parquet, part, ["clip_id"]):
                found += rows["clip_id"].to_pylist()
    return sorted(found)


def files_with(store: Store, text: str) -> list[str]:
    """Return the files of a dataset with a text in their bytes, or in the values of a table."""
    found = []
    for file in store.files():
        data = store.read(file.path)
        if file.path.endswith(".parquet"):
            parquet = pq.ParquetFile(pa.BufferReader(data))
            data += str(parquet.metadata.to_dict()).encode()
            data += str(parquet.schema_arrow.metadata).encode()
            data += b"".join(str(column.to_pylist()).encode() for column in parquet.read().columns)
        if text.encode() in data:
            found.append(file.path)
    return sorted(found)


GONE = keys_of("a")[1]
BAD = "folder/broken"


def made(store: Store) -> None:
    """Write a dataset of two units; one has a quarantined and a filtered sample."""
    write_log(store, [commit_keys(store, "a", lost=[BAD]), commit_keys(store, "b")])
    write_manifest(store)


def kinds(store: Store) -> list[str]:
    return sorted({found.kind for found in verify(store, forgotten=True).findings})


def erased(store: Store) -> None:
    compact(store)
    vacuum(store, older_than_hours=0, delete=True)
