"""A publisher that stands still, and a vacuum meanwhile: no table names a file that is gone."""

from typing import Any

import pytest

import pipeline.operations.publish.publish
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import write_manifest
from pipeline.operations.compact import compact
from pipeline.operations.publish.publish import publish
from pipeline.operations.vacuum import vacuum
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.operations.published import FORMATS, plain_rows, same, table_rows


@pytest.fixture(params=FORMATS)
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_vacuum_keeps_what_a_table_is_about_to_name(
    local: Store, table_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher stands still before its commit, and all files are replaced meanwhile."""
    from pipeline.operations.publish.delta import Delta
    from pipeline.operations.publish.iceberg import Iceberg

    sound(local)
    write_manifest(local)
    table = {"delta": Delta, "iceberg": Iceberg}[table_format]
    commit_table = table.commit

    def stand_still(self: Any, *arguments: Any) -> None:
        compact(local)
        swept = vacuum(local, older_than_hours=0, delete=True)
        assert (swept.garbage, len(swept.published)) == ([], 6)
        commit_table(self, *arguments)

    monkeypatch.setattr(table, "commit", stand_still)
    publish(local, table_format)
    monkeypatch.undo()
    assert same(table_rows(local, table_format), plain_rows(local))
    publish(local, table_format)
    swept = vacuum(local, older_than_hours=0, delete=True)
    assert (len(swept.garbage), swept.published) == (6, [])
    assert same(table_rows(local, table_format), plain_rows(local))


def test_a_table_never_names_what_vacuum_dropped(
    local: Store, table_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher stands still after it read the manifest."""
    sound(local)
    read = pipeline.operations.publish.publish.read_manifest

    def read_then_stand_still(store: Store) -> Any:
        monkeypatch.undo()
        manifest = read(store)
        compact(local)
        assert len(vacuum(local, older_than_hours=0, delete=True).garbage) == 6
        return manifest

    monkeypatch.setattr(pipeline.operations.publish.publish, "read_manifest", read_then_stand_still)
    assert publish(local, table_format).files == 2
    assert same(table_rows(local, table_format), plain_rows(local))


def test_vacuum_keeps_all_when_a_table_is_announced_meanwhile(
    local: Store, table_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(local)
    compact(local)
    drop = CommitLog.drop

    def announce_then_drop(log: CommitLog, paths: Any) -> set[str]:
        publish(local, table_format)
        return drop(log, paths)

    monkeypatch.setattr(CommitLog, "drop", announce_then_drop)
    swept = vacuum(local, older_than_hours=0, delete=True)
    assert (swept.garbage, len(swept.young)) == ([], 6)
    monkeypatch.undo()
    assert len(vacuum(local, older_than_hours=0, delete=True).garbage) == 6
    assert same(table_rows(local, table_format), plain_rows(local))
