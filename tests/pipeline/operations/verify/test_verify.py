"""Every kind of damage is found and named, and nothing is found in what is sound."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log_records import read_record, record_path
from pipeline.dataset.manifest import manifest_path, read_checkpoint
from pipeline.dataset.metadata import new_dataset
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import QUARANTINE_SCHEMA
from pipeline.dataset.statistics import PsnrSums
from pipeline.errors import ConfigError
from pipeline.operations.findings import KINDS, Finding
from pipeline.operations.verify.verify import Verification, verify
from pipeline.records import from_json, to_json
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import (
    DATASET,
    IDENTITY,
    commit,
    sound,
    with_column,
    with_rows,
    write_log,
)
from tests.pipeline.units import deliver


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def kinds(result: Verification) -> list[tuple[str, str]]:
    return sorted((found.kind, found.where) for found in result.findings)


def one(result: Verification) -> Finding:
    [found] = result.findings
    assert found.kind in KINDS
    assert result.exit_code == 1
    assert found.detail in "\n".join(result.lines())
    return found


class TestFiles:
    def test_a_sound_dataset(self, store: Store) -> None:
        records = sound(store)
        result = verify(store)
        assert result.findings == []
        assert (result.units, result.files, result.read) == (3, 9, 9)
        assert result.rows == sum(part.rows for unit in records for part in unit.parts) == 21
        assert result.unnamed == []
        assert result.exit_code == 0
        assert result.lines()[-1].endswith("sound")

    def test_a_missing_part(self, store: Store) -> None:
        path = sound(store)[1].parts[0].path
        store.delete(path)
        found = one(verify(store))
        assert (found.kind, found.where, found.detail) == ("missing", path, "unit u-1 names it")

    def test_a_part_that_goes_while_it_is_verified(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = sound(local)[1].parts[0].path
        listed = list(local.files())
        local.delete(path)
        monkeypatch.setattr(Store, "files", lambda store: iter(listed))
        assert kinds(verify(local)) == [("missing", path)]

    def test_a_truncated_part(self, store: Store) -> None:
        part = sound(store)[0].parts[1]
        store.write(part.path, store.read(part.path)[:-7])
        found = one(verify(store))
        assert (found.kind, found.where) == ("size", part.path)
        assert found.detail == f"{part.bytes - 7} bytes, recorded {part.bytes}"

    @pytest.mark.parametrize("place", [0, 0.5, -1])
    def test_a_flipped_byte(self, local: Store, place: float) -> None:
        part = sound(local)[0].parts[0]
        data = bytearray(local.read(part.path))
        data[int(place * len(data)) if place >= 0 else -1] ^= 1
        local.write(part.path, bytes(data))
        found = one(verify(local))
        assert (found.kind, found.where) == ("checksum", part.path)
        assert part.sha256 in found.detail

    def test_a_flipped_byte_on_s3(self, store: Store) -> None:
        part = sound(store)[0].parts[0]
        data = store.read(part.path)
        store.write(part.path, data[:-1] + bytes([data[-1] ^ 1]))
        assert one(verify(store)).kind == "checksum"

    def test_a_damaged_quarantine(self, local: Store) -> None:
        part = sound(local)[2].quarantine
        assert part is not None
        local.write(part.path, bytes(part.bytes))
        assert one(verify(local)).where == part.path
        local.delete(part.path)
        assert one(verify(local)).kind == "missing"

    def test_files_that_no_record_names_are_told_and_no_fault(self, store: Store) -> None:
        part = sound(store)[0].parts[0]
        extra = part.path.replace("u-0-0-", "u-0-1-")
        store.write(extra, store.read(part.path))
        store.write("data/notes.txt", b"mine")
        result = verify(store)
        assert (result.exit_code, result.unnamed) == (0, sorted(["data/notes.txt", extra]))
        assert any(line.startswith("unnamed     2 files") for line in result.lines())

    def test_a_sample_looks_into_few_files_but_for_all_of_them(self, local: Store) -> None:
        records = sound(local)
        result = verify(local, sample=2)
        assert (result.exit_code, result.files, result.read) == (0, 9, 2)
        for unit in records:
            local.delete(unit.parts[0].path)
        assert len(verify(local, sample=0).findings) == 3

    def test_a_part_under_another_name_than_its_content_asks_for(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        part = record.parts[0]
        path = part.path.replace(part.sha256[:16], "0" * 16)
        local.write(path, local.read(part.path))
        write_log(local, [replace(record, parts=(replace(part, path=path), *record.parts[1:]))])
        found = one(verify(local))
        assert (found.kind, found.where) == ("checksum", path)

    def test_a_file_that_is_no_parquet(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        data = b"PAR1 but nothing else PAR1"
        part = replace(record.parts[0], **described(data, "data/5x16x16/u-0-{}.parquet"))
        local.write(part.path, data)
        write_log(local, [replace(record, parts=(part, *record.parts[1:]))])
        assert kinds(verify(local)) == [("unreadable", part.path)]


def described(data: bytes, path: str) -> dict[str, Any]:
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    return {"path": path.format(digest[:16]), "bytes": len(data), "sha256": digest}


def first_row(rows: pa.Table, name: str, value: Any) -> pa.Table:
    return with_column(rows, name, [value, *rows[name].to_pylist()[1:]])


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)])


def reordered(rows: pa.Table) -> pa.Table:
    return rows.take(list(range(rows.num_rows))[::-1])


def cells(name: str, place: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    dtype = "<u2" if name == "fsq" else "<f2"

    def change(rows: pa.Table) -> pa.Table:
        values = np.frombuffer(rows[name][0].as_py(), dtype).copy()
        values[place] = value
        return first_row(rows, name, values.tobytes())

    return change


class TestRows:
    """Faults of a writer: the bytes are those that the record promises."""

    @pytest.mark.parametrize(
        ("change", "kind", "text"),
        [
            (cells("fsq", 3, 32768), "range", "fsq: index 32768, the codebook has 32768"),
            (cells("kl", 5, np.nan), "non_finite", "kl: NaN or infinity in 1 of 32 cells"),
            (cells("kl_logvar", 0, -np.inf), "non_finite", "kl_logvar: NaN or infinity in 1"),
            (
                lambda rows: first_row(rows, "fsq_shape", [8]),
                "shape",
                "fsq_shape [8], the model gives [2, 2, 2]",
            ),
            (
                lambda rows: first_row(rows, "kl", b"\0" * 62),
                "shape",
                "kl: 62 bytes, [4, 2, 2, 2] float16 take 64",
            ),
            (doubled, "doubled", "u/k0/0: has a row already"),
            (reordered, "order", "after"),
            (lambda rows: first_row(rows, "clip_id", "u/k0/7"), "rows", "u/k0/7: not of unit u"),
            (lambda rows: first_row(rows, "unit", "v"), "rows", "not of unit u"),
            (lambda rows: first_row(rows, "end_s", 0.0), "rows", "is not below end_s 0.0"),
        ],
    )
    def test_a_faulty_row(
        self, local: Store, change: Callable[[pa.Table], pa.Table], kind: str, text: str
    ) -> None:
        record = with_rows(local, commit(local, deliver("u")), change)
        write_log(local, [record])
        result = verify(local)
        assert {found.kind for found in result.findings} == {kind}
        assert {found.where for found in result.findings} == {record.parts[0].path}
        assert any(text in found.detail for found in result.findings)

    @pytest.mark.parametrize(
        ("change", "fields"),
        [
            (cells("fsq", 3, 1), "levels"),
            (cells("kl", 5, 0.25), "latents"),
            (
                lambda rows: first_row(rows, "caption", "other words"),
                "captions, caption_characters",
            ),
        ],
    )
    def test_rows_that_are_not_those_of_the_statistics(
        self, local: Store, change: Callable[[pa.Table], pa.Table], fields: str
    ) -> None:
        record = with_rows(local, commit(local, deliver("u")), change)
        write_log(local, [record])
        found = one(verify(local))
        text = f"unit u, bucket {record.parts[0].bucket}: {fields} are not those of its rows"
        assert (found.kind, found.where, found.detail) == ("statistics", "log", text)
        assert verify(local, sample=1).findings == [], "of a part alone nothing can be said"

    def test_a_bucket_without_statistics_and_psnr(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        assert record.statistics is not None
        measured = {
            bucket: replace(sums, psnr={"fsq": PsnrSums.of("u/k0/0", 30.0)})
            for bucket, sums in record.statistics.items()
        }
        write_log(local, [replace(record, statistics=measured)])
        assert verify(local).findings == []
        other = Store(local.uri + "-2")
        for path in local.list():
            if not path.startswith(("log", "manifest", "dataset")):
                other.write(path, local.read(path))
        measured.pop("5x16x16")
        write_log(other, [replace(record, statistics=measured)])
        assert one(verify(other)).detail.startswith("unit u, bucket 5x16x16: clips, frames, ")

    def test_a_row_too_few(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        short = with_rows(local, record, lambda rows: rows.slice(1))
        write_log(local, [short])
        assert "8 clips written, 7 rows in its parts" in one(verify(local)).detail
        lying = replace(short.parts[0], rows=record.parts[0].rows)
        other = Store(local.uri + "-2")
        for part in (*short.parts, *([short.quarantine] if short.quarantine else [])):
            other.write(part.path, local.read(part.path))
        write_log(other, [replace(short, parts=(lying, *short.parts[1:]))])
        assert one(verify(other)).detail == "4 rows, recorded 5"

    def test_a_clip_in_two_parts(self, local: Store) -> None:
        """Of two buckets: each of the parts alone is sound."""
        record = commit(local, deliver("u", batches=(2, 2)))
        names = ("clip_id", "key", "clip_index")
        with local.open(record.parts[0].path) as file:
            first = pq.read_table(file)
        moved = replace(record, parts=record.parts[::-1])

        def change(rows: pa.Table) -> pa.Table:
            for name in names:
                rows = with_column(rows, name, first[name].to_pylist())
            return rows

        changed = with_rows(local, moved, change)
        write_log(local, [replace(changed, parts=changed.parts[::-1])])
        result = verify(local)
        assert [found.kind for found in result.findings] == ["doubled", "doubled"]

    def test_other_columns(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        part = record.parts[0]
        with local.open(part.path) as file:
            rows = pq.read_table(file).drop_columns(["caption"])
        data = pa.BufferOutputStream()
        pq.write_table(rows, data)
        content = data.getvalue().to_pybytes()
        wrong = replace(part, **described(content, "data/5x16x16/u-0-{}.parquet"))
        local.write(wrong.path, content)
        write_log(local, [replace(record, parts=(wrong, *record.parts[1:]))])
        assert kinds(verify(local)) == [("schema", wrong.path)]


class TestQuarantine:
    def recorded(self, local: Store, rows: list[dict[str, Any]]) -> UnitRecord:
        record = commit(local, deliver("u", lost=[1]))
        assert record.quarantine is not None
        data = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), data)
        content = data.getvalue().to_pybytes()
        part = replace(record.quarantine, **described(content, "quarantine/u-{}.parquet"))
        local.write(part.path, content)
        return replace(record, quarantine=part)

    def rows(self, local: Store) -> list[dict[str, Any]]:
        record = commit(local, deliver("u", lost=[1]))
        assert record.quarantine is not None
        with local.open(record.quarantine.path) as file:
            rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"reason": "truncated"}, "reasons {'truncated': 1, 'non_finite': 1}, recorded"),
            ({"clip_index": 3}, "0 samples and 2 clips, counted 1 and 1"),
            ({"unit": "v"}, "v/bad0/None: reason corrupt, unit v"),
        ],
    )
    def test_other_rows_than_counted(self, local: Store, change: dict[str, Any], text: str) -> None:
        sample, clip = self.rows(local)
        write_log(local, [self.recorded(local, [{**sample, **change}, clip])])
        found = one(verify(local))
        assert found.kind == "quarantine"
        assert text in found.detail

    def test_a_clip_that_has_a_row_as_well(self, local: Store) -> None:
        sample, clip = self.rows(local)
        write_log(local, [self.recorded(local, [sample, {**clip, "clip_index": 0}])])
        found = one(verify(local))
        assert (found.kind, found.detail) == ("doubled", "u/k0/0: has a row, too")


class TestLog:
    def test_a_wrong_count_in_a_record(self, store: Store) -> None:
        record = commit(store, deliver("u"))
        counts = replace(record.counts, clips_written=record.counts.clips_written + 1)
        write_log(store, [replace(record, counts=counts)])
        result = verify(store)
        assert {found.kind for found in result.findings} == {"counts"}
        assert all(found.detail.startswith("u: ") for found in result.findings)

    def test_a_record_changed_behind_the_manifest(self, store: Store) -> None:
        sound(store)
        record = read_record(store, 1)
        [unit] = record.units
        changed = replace(record, units=(replace(unit, sources=("/elsewhere.tar",)),))
        store.write(record_path(1), to_json(changed))
        found = one(verify(store))
        assert (found.kind, found.where) == ("log", "manifest")
        assert "u-0" in found.detail

    def test_a_hole_and_a_damaged_record(self, local: Store) -> None:
        sound(local)
        local.write(record_path(2), b"{")
        assert one(verify(local)).kind == "log"
        local.delete(record_path(2))
        result = verify(local)
        assert one(result).detail.startswith(local.locate(record_path(2)))
        assert result.units == 3, "the manifest still knows them"

    def test_a_damaged_manifest(self, local: Store) -> None:
        sound(local)
        local.write(manifest_path(2), b"PAR1")
        result = verify(local)
        assert one(result).kind == "log"
        assert result.units == 3, "the log still knows them"

    def test_the_identity_was_edited(self, local: Store) -> None:
        sound(local)
        head = json.loads(local.read("dataset.json"))
        head["identity"]["clip"]["fps"] = 9.0
        local.write("dataset.json", json.dumps(head).encode())
        assert one(verify(local)).where == "dataset.json"

    def test_another_dataset_s_log(self, local: Store) -> None:
        sound(local)
        other = new_dataset(DATASET.tokenizers, {**IDENTITY, "preprocessing": 2})
        local.write("dataset.json", to_json(other))
        found = one(verify(local))
        assert (found.kind, found.where) == ("log", "log")
        assert other.fingerprint in found.detail

    def test_no_dataset(self, store: Store) -> None:
        with pytest.raises(ConfigError, match="no dataset"):
            verify(store)


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["verify", *arguments])
        return done.exit_code, done.stdout, done.stderr

    def test_exit_codes_and_json(self, local: Store) -> None:
        part = sound(local)[0].parts[0]
        code, text, _ = self.run(local.uri)
        assert code == 0
        assert text.splitlines()[-1] == "verdict     sound"
        local.delete(part.path)
        code, text, _ = self.run(local.uri, "--json")
        assert code == 1
        [found] = json.loads(text)["findings"]
        assert (found["kind"], found["where"]) == ("missing", part.path)

    def test_wrong_input(self, tmp_path: Path) -> None:
        code, text, error = self.run(str(tmp_path))
        assert (code, text) == (2, "")
        assert "no dataset" in error
        assert self.run(str(tmp_path), "--sample", "-1")[0] == 2


def test_helpers_make_what_the_log_holds(local: Store) -> None:
    records = sound(local)
    assert list(read_checkpoint(local).units()) == records[:2]
    assert from_json(UnitRecord, to_json(records[0])) == records[0]
