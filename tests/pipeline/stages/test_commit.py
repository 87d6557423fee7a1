import dataclasses
import io
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.quantized import dequantize, quantize
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import clip_schema, packed_schema
from pipeline.errors import StoreError, UnitRejected
from pipeline.quarantine import Quarantined
from pipeline.records import LooseFile, WorkUnit
from pipeline.stages.commit import commit_unit
from pipeline.stages.messages import PayloadHeader, decode_rows, encode_rows
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import (
    FSQ,
    KL,
    LEVELS,
    SCHEMA,
    SMALL,
    WIDE,
    Delivery,
    deliver,
    make_cells,
    make_clip,
    make_payload,
    quarantine,
)


def commit(store: Store, delivery: Delivery, **limits: int) -> UnitRecord:
    return commit_unit(
        delivery.unit,
        delivery.closing,
        iter(delivery.payloads),
        store=store,
        schema=SCHEMA,
        levels=LEVELS,
        **limits,
    )


def rows_of(store: Store, record: UnitRecord, bucket: str) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(io.BytesIO(store.read(part.path)))
        for part in record.parts
        if part.bucket == bucket
    )


class TestCommit:
    def test_a_unit_in_two_buckets(self, store: Store) -> None:
        delivery = deliver(batches=(3, 3, 2), lost=(1, 4))
        record = commit(store, delivery)
        assert record.unit == "u-1"
        assert record.sources == ("/in/u-1.tar",)
        assert [(part.bucket, part.rows) for part in record.parts] == [
            (SMALL.name, 4),
            (WIDE.name, 2),
        ]
        for bucket, seqs in ((SMALL.name, (0, 2)), (WIDE.name, (1,))):
            wanted = pa.concat_tables(decode_rows(delivery.payloads[seq][1]) for seq in seqs).cast(
                SCHEMA
            )
            assert rows_of(store, record, bucket).equals(wanted)
        assert record.counts == Counts(
            samples_read=6,
            samples_with_clips=4,
            samples_filtered=1,
            samples_quarantined=1,
            clips_seen=10,
            clips_written=6,
            clips_filtered=2,
            clips_quarantined=2,
            microseconds_decoded=4_750_000,
        )
        assert record.counts.imbalance() is None
        assert record.reasons == {"corrupt": 1, "non_finite": 2, "too_short": 1}
        assert record.dropped == {"tail": 1, "too_short": 1}
        assert record.timings["decode"] == 1.5
        assert record.timings["tokenize"] == 0.75
        assert record.timings["commit"] > 0
        assert record.quarantine is not None
        table = pq.read_table(io.BytesIO(store.read(record.quarantine.path)))
        assert [(row["key"], row["clip_index"], row["reason"]) for row in table.to_pylist()] == [
            ("bad0", None, "corrupt"),
            ("short0", None, "too_short"),
            ("k0", 1, "non_finite"),
            ("k2", 0, "non_finite"),
        ]
        assert sorted(store.list()) == sorted(
            [part.path for part in record.parts] + [record.quarantine.path]
        )

    def test_a_unit_of_loose_files_lists_them(self, tmp_path: Path) -> None:
        delivery = deliver()
        files = tuple(LooseFile(key=f"{n}.mp4", uri=f"/in/{n}.mp4") for n in range(3))
        delivery.unit = WorkUnit(unit="u-1", files=files)
        record = commit(Store(str(tmp_path)), delivery)
        assert record.sources == ("/in/0.mp4", "/in/1.mp4", "/in/2.mp4")

    def test_an_empty_unit_commits_without_files(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path))
        record = commit(store, deliver(batches=(), unreadable=0, filtered=0))
        assert (record.parts, record.quarantine, record.reasons) == ((), None, {})
        assert store.list() == []

    def test_all_clips_quarantined(self, tmp_path: Path) -> None:
        record = commit(
            Store(str(tmp_path)), deliver(batches=(2,), lost=(0, 1), unreadable=0, filtered=0)
        )
        assert record.parts == ()
        assert (record.counts.clips_written, record.counts.clips_quarantined) == (0, 2)
        assert record.quarantine is not None
        assert record.quarantine.rows == 2

    def test_committing_again_gives_the_same_bytes_under_other_names(self, store: Store) -> None:
        first = commit(store, deliver(lost=(1,)))
        again = commit(store, deliver(lost=(1,)))
        assert [file.sha256 for file in again.files] == [file.sha256 for file in first.files]
        same = {name: getattr(first, name) for name in ("parts", "quarantine", "timings")}
        assert dataclasses.replace(again, **same) == first
        assert store.list() == sorted(file.path for file in (*first.files, *again.files))

    def test_a_late_writer_that_differs_takes_other_names(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path))
        first = commit(store, deliver())
        late = commit(store, deliver(lost=(0,)))
        bucket = {part.bucket: part.path for part in late.parts}
        assert bucket[SMALL.name] not in {part.path for part in first.parts}
        for part in first.parts:
            assert len(store.read(part.path)) == part.bytes

    def test_payloads_are_pulled_one_after_another(self, tmp_path: Path) -> None:
        """Memory follows the row group, not the unit."""
        clips = [make_clip("u-1", n) for n in range(8)]
        payload_bytes = len(make_payload(0, SMALL, clips, scale=30)[1])
        peaks = []
        for count in (10, 40):
            delivery = deliver(batches=(8,) * count, scale=30)
            payloads = delivery.payloads
            delivery.payloads = []

            def pull(payloads: list[tuple[PayloadHeader, bytes]] = payloads) -> Iterator[object]:
                while payloads:
                    yield payloads.pop(0)

            before = pa.total_allocated_bytes() + sum(len(data) for _, data in payloads)
            peak = 0
            tracemalloc.start()

            def watch(stream: Iterator[object]) -> Iterator[object]:
                nonlocal peak
                for item in stream:
                    yield item
                    peak = max(peak, pa.total_allocated_bytes())

            commit_unit(
                delivery.unit,
                delivery.closing,
                watch(pull()),  # type: ignore[arg-type]
                store=Store(str(tmp_path / str(count))),
                schema=SCHEMA,
                levels=LEVELS,
                row_group_bytes=2 * payload_bytes,
            )
            python_peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert before > count * payload_bytes
            peaks.append(peak + python_peak)
        assert peaks[1] < 1.5 * peaks[0]
        assert peaks[1] < 15 * payload_bytes

    def test_parts_and_row_groups_keep_their_limits(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path))
        delivery = deliver(batches=(8,) * 20, scale=6)
        record = commit(store, delivery, row_group_bytes=20_000, max_part_bytes=100_000)
        small = [part for part in record.parts if part.bucket == SMALL.name]
        assert len(small) > 2
        assert all(part.bytes < 150_000 for part in record.parts)
        wanted = pa.concat_tables(decode_rows(data) for _, data in delivery.payloads[::2]).cast(
            SCHEMA
        )
        assert rows_of(store, record, SMALL.name).equals(wanted)

    @pytest.mark.s3
    def test_a_store_that_fails_is_no_rejection(self, s3: S3Server, s3_store: Store) -> None:
        with s3.faults.times("refuse_503", 999, part="/data/"), pytest.raises(StoreError):
            commit(s3_store, deliver())


Change = Callable[[Delivery], None]


def set_header(seq: int, **changes: object) -> Change:
    def change(delivery: Delivery) -> None:
        header, data = delivery.payloads[seq]
        delivery.payloads[seq] = (dataclasses.replace(header, **changes), data)  # type: ignore[arg-type]

    return change


def set_rows(seq: int, make: Callable[[pa.Table], pa.Table]) -> Change:
    def change(delivery: Delivery) -> None:
        header, data = delivery.payloads[seq]
        [batch] = make(decode_rows(data)).combine_chunks().to_batches()
        delivery.payloads[seq] = (header, encode_rows(batch))

    return change


def set_closing(**changes: object) -> Change:
    def change(delivery: Delivery) -> None:
        delivery.closing = dataclasses.replace(delivery.closing, **changes)  # type: ignore[arg-type]

    return change


def set_counts(**changes: int) -> Change:
    def change(delivery: Delivery) -> None:
        counts = dataclasses.replace(delivery.closing.counts, **changes)
        delivery.closing = dataclasses.replace(delivery.closing, counts=counts)

    return change


def swap(a: int, b: int) -> Change:
    def change(delivery: Delivery) -> None:
        delivery.payloads[a], delivery.payloads[b] = delivery.payloads[b], delivery.payloads[a]

    return change


def replay_that_shifted(delivery: Delivery) -> None:
    """One clip twice and another missing, all counts in balance."""
    clips = [make_clip("u-1", n) for n in (2, 3, 4)]
    delivery.payloads[1] = make_payload(1, WIDE, clips)


def replay_that_shifted_and_closed(delivery: Delivery) -> None:
    replay_that_shifted(delivery)
    digests = tuple(header.digest for header, _ in delivery.payloads)
    delivery.closing = dataclasses.replace(delivery.closing, digests=digests)


def another_model(delivery: Delivery) -> None:
    schema = clip_schema([dataclasses.replace(FSQ, fingerprint="0" * 32), KL])
    clips = [make_clip("u-1", n) for n in range(3)]
    delivery.payloads[0] = make_payload(0, SMALL, clips, schema=schema)


def other_columns(delivery: Delivery) -> None:
    schema = packed_schema(clip_schema([FSQ]))
    clips = [make_clip("u-1", n) for n in range(3)]
    header, _ = delivery.payloads[0]
    rows = clip_rows(clips, make_cells(clips, SMALL), schema)
    delivery.payloads[0] = (header, encode_rows(rows))


def cut_cells(table: pa.Table) -> pa.Table:
    short = pa.array([cell.as_py()[:-2] for cell in table["fsq"]], pa.binary())
    return table.set_column(table.schema.get_field_index("fsq"), table.schema.field("fsq"), short)


SHORT = Quarantined.too_short(unit="u-1", key="short0", frames=2, seconds=0.25, shortest=5)
STRANGER = quarantine(make_clip("u-1", 7), "non_finite", "tokenize")
FOREIGN = dataclasses.replace(STRANGER, unit="u-2", clip_index=None)

REJECTED: dict[str, tuple[Change, str]] = {
    "a payload is missing": (lambda d: d.payloads.pop(), "2 payloads of 3 arrived"),
    "a payload is missing in the middle": (lambda d: d.payloads.pop(1), "payload 1: got u-1, pay"),
    "a payload comes twice": (lambda d: d.payloads.insert(1, d.payloads[0]), "payload 1: got"),
    "a payload too many": (
        lambda d: d.payloads.append((dataclasses.replace(d.payloads[0][0], seq=3), b"")),
        "payload 3: the closing row lists 3",
    ),
    "order": (swap(1, 2), "payload 1: got u-1, payload 2"),
    "another unit's payload": (set_header(1, unit="u-2"), "payload 1: got u-2"),
    "a replay that came out differently": (replay_that_shifted, "decoded twice"),
    "a replay whose digests match": (replay_that_shifted_and_closed, "holds a clip a second time"),
    "a row is missing": (set_rows(0, lambda t: t.slice(1)), "not its 3 surviving clips"),
    "rows out of order": (set_rows(0, lambda t: t.take([1, 0, 2])), "not its 3 surviving clips"),
    "a quarantined clip is a row": (
        set_header(0, quarantined=(quarantine(make_clip("u-1", 0), "non_finite", "tokenize"),)),
        "not its 2 surviving clips",
    ),
    "a stranger is quarantined": (set_header(0, quarantined=(STRANGER,)), "it does not hold"),
    "one clip quarantined twice": (
        set_header(0, quarantined=(quarantine(make_clip("u-1", 0), "x", "tokenize"),) * 2),
        "or one twice",
    ),
    "foreign clips": (set_header(0, clip_ids=("u-2/k/0",) * 3), "clips of another unit"),
    "not Arrow": (
        lambda d: d.payloads.__setitem__(0, (d.payloads[0][0], b"rubbish" * 9)),
        "payload 0: not an Arrow stream",
    ),
    "another model": (another_model, "payload 0: schema has other metadata"),
    "other columns": (other_columns, "lacks ['pyarrow.Field<kl: binary not null>'"),
    "cells cut short": (set_rows(0, cut_cells), "fsq: bytes and fsq_shape disagree"),
    "closing row of another unit": (set_closing(unit="u-2"), "the closing row belongs to u-2"),
    "samples out of balance": (set_counts(samples_read=99), "99 samples read, 6 accounted for"),
    "clips out of balance": (set_counts(clips_seen=99), "99 clips seen, 10 accounted for"),
    "a rule is not counted": (
        set_counts(clips_seen=11, clips_filtered=3),
        "3 clips counted as fil",
    ),
    "more clips counted": (set_counts(clips_seen=11, clips_written=9), "8 clips arrived, 9 count"),
    "quarantine not recorded": (
        set_closing(quarantined=(SHORT,)),
        "1 samples and 0 clips counted as quarantined, 0 and 0 recorded",
    ),
    "filtered not recorded": (set_closing(quarantined=()), "1 samples counted as filtered, 0 rec"),
    "quarantine of another unit": (set_closing(quarantined=(FOREIGN,)), "belongs to u-2"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejects(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path))
    change, text = REJECTED[name]
    delivery = deliver()
    change(delivery)
    with pytest.raises(UnitRejected) as caught:
        commit(store, delivery, row_group_bytes=1)
    assert str(caught.value).startswith("u-1: ")
    assert text in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "left a file behind"


def test_latents_with_a_scale(tmp_path: Path) -> None:
    schema = clip_schema([dataclasses.replace(KL, dtype="uint8", bits=8, logvar=False)])
    delivery = deliver(batches=(3,))
    clips = [make_clip("u-1", n) for n in range(3)]
    latents = make_cells(clips, SMALL)["kl"].astype(np.float32)
    cells, scales = quantize(latents, 8)

    def send() -> UnitRecord:
        rows = clip_rows(clips, {"kl": cells, "kl_scale": scales}, packed_schema(schema))
        delivery.payloads[0] = (delivery.payloads[0][0], encode_rows(rows))
        return commit_unit(
            delivery.unit,
            delivery.closing,
            delivery.payloads,
            store=Store(str(tmp_path)),
            schema=schema,
            levels={},
        )

    sums = send().statistics[SMALL.name].latents["kl"]
    values = cells.astype(np.float32)
    for clip, scale in zip(values, scales, strict=True):
        dequantize(clip, scale)
    np.testing.assert_allclose(sums.mean(), values.mean((0, 2, 3, 4)), atol=1e-6)
    scales[1, -1] = -1
    with pytest.raises(UnitRejected, match=r"payload 0: kl_scale: the step -1\.0 is negative"):
        send()


@given(
    batches=st.lists(st.integers(1, 4), max_size=6),
    picks=st.sets(st.integers(0, 23)),
    unreadable=st.integers(0, 3),
)
def test_every_clip_is_a_row_or_in_quarantine(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], picks: set[int], unreadable: int
) -> None:
    lost = sorted(n for n in picks if n < sum(batches))
    store = Store(str(tmp_path_factory.mktemp("corpus")))
    record = commit(store, deliver(batches=batches, lost=lost, unreadable=unreadable))
    ids = [
        clip_id
        for part in record.parts
        for clip_id in pq.read_table(io.BytesIO(store.read(part.path)))["clip_id"].to_pylist()
    ]
    wanted = [make_clip("u-1", n).clip_id for n in range(sum(batches)) if n not in lost]
    assert sorted(ids) == sorted(wanted)
    assert record.counts.imbalance() is None
    assert sum(record.reasons.values()) == len(lost) + unreadable + 1
    quarantined = record.quarantine.rows if record.quarantine else 0
    assert quarantined == len(lost) + unreadable + 1, "the other one is filtered"
