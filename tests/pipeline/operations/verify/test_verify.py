"""Every kind of damage is found and named, and nothing is found in what is sound."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.log_records import read_record, record_path
from pipeline.dataset.log.manifest import manifest_path, read_checkpoint
from pipeline.dataset.metadata import new_dataset
from pipeline.dataset.records import UnitRecord
from pipeline.errors import ConfigError
from pipeline.operations.verify.verify import verify
from pipeline.records import from_json, to_json
from pipeline.storage.store import Store, StoredFile
from tests.pipeline.made_datasets import (
    DATASET,
    IDENTITY,
    commit,
    sound,
    write_log,
)
from tests.pipeline.operations.verify.found import described, kinds, one
from tests.pipeline.units import deliver


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


class TestFiles:
    def test_a_sound_dataset(self, store: Store) -> None:
        records = sound(store)
        result = verify(store)
        assert result.findings == []
        assert (result.units, result.files, result.files_read) == (3, 9, 9)
        assert (
            result.rows_checked == sum(part.rows for unit in records for part in unit.parts) == 21
        )
        assert result.orphaned == []
        assert result.exit_code == 0
        assert result.lines()[-1].endswith("valid")

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

        def files(_: Store, folder: str = "") -> Iterator[StoredFile]:
            return (file for file in listed if file.path.startswith(folder))

        monkeypatch.setattr(Store, "files", files)
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
        assert (result.exit_code, result.orphaned) == (0, sorted(["data/notes.txt", extra]))
        assert any(line.startswith("orphaned   2 files") for line in result.lines())

    def test_a_sample_looks_into_few_files_but_for_all_of_them(self, local: Store) -> None:
        records = sound(local)
        result = verify(local, sample=2)
        assert (result.exit_code, result.files, result.files_read) == (0, 9, 2)
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
        assert text.splitlines()[-1] == "verdict    valid"
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
