"""Damaged parts are not merged, damage in merged parts is found, and leftovers are deleted."""

from pathlib import Path

import pytest

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import read_record, record_path
from pipeline.dataset.log.manifest import manifest_path, read_manifest
from pipeline.errors import StoreError
from pipeline.operations.compact import compact
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.operations.compacted import age, named, redo
from tests.pipeline.units import edit_json


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


class TestVacuum:
    def test_what_a_killed_compaction_left(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        monkeypatch.setattr(CommitLog, "move", lambda *_: False)
        compact(local)
        number = read_manifest(local).number
        assert len(vacuum(local, delete=True).young) == 2
        age(local, 25)
        assert len(vacuum(local).garbage) == 2
        assert read_manifest(local).number == number
        assert len(vacuum(local, delete=True).garbage) == 2
        assert len(read_record(local, number + 1).dropped) == 2
        assert verify(local).orphaned == []
        assert vacuum(local, older_than_hours=0, delete=True).garbage == []
        assert read_manifest(local).number == number + 1

    def test_a_day_is_counted_from_the_record_that_moved_the_rows(self, local: Store) -> None:
        """Until then a reader may hold a manifest that names the earlier parts."""
        sound(local)
        age(local, 30)
        compact(local)
        assert len(vacuum(local, delete=True).young) == 6
        redo(local, "u-0")
        age(local, 30)
        compact(local, part_bytes=1 << 26)
        result = vacuum(local, delete=True)
        assert sum("merged-" in file.path for file in result.young) == 2
        age(local, 25)
        assert sum("merged-" in f.path for f in vacuum(local, delete=True).garbage) == 2
        assert verify(local).findings == []


class TestDamage:
    def test_damaged_parts_are_not_merged(self, local: Store) -> None:
        path = sound(local)[1].parts[0].path
        data = bytearray(local.read(path))
        data[len(data) // 2] ^= 1
        local.write(path, bytes(data))
        before = read_manifest(local)
        with pytest.raises(StoreError, match=r"SHA-256 .* run `python -m pipeline verify`"):
            compact(local)
        assert list(read_manifest(local).units()) == list(before.units())

    def test_missing_parts_are_not_merged(self, local: Store) -> None:
        local.delete(sound(local)[1].parts[0].path)
        with pytest.raises(StoreError, match="u-1-0-"):
            compact(local)

    def test_verify_finds_what_is_wrong_with_a_merged_part(self, local: Store) -> None:
        sound(local)
        compact(local)
        path = min(named(local))
        data = bytearray(local.read(path))
        data[len(data) // 2] ^= 1
        local.write(path, bytes(data))
        assert [(found.kind, found.where) for found in verify(local).findings] == [
            ("checksum", path)
        ]
        local.delete(path)
        assert {(found.kind, found.where) for found in verify(local).findings} == {
            ("missing", path)
        }

    @pytest.mark.parametrize(("first_row", "kind"), [(1, "rows"), (1000, "rows")])
    def test_verify_finds_a_wrong_place(self, local: Store, first_row: int, kind: str) -> None:
        sound(local)
        compact(local)
        for number in (4, 5):
            edit_json(local, record_path(number), '"first_row":0', f'"first_row":{first_row}')
        local.delete(manifest_path(5))
        assert kind in {found.kind for found in verify(local).findings}

    def test_rows_of_a_unit_that_is_not_committed(self, local: Store) -> None:
        sound(local)
        compact(local)
        local.delete(manifest_path(5))
        edit_json(local, record_path(5), '"unit":"u-1"', '"unit":"u-9"')
        with pytest.raises(StoreError, match="changes rows of u-9, which is not committed"):
            read_manifest(local)
