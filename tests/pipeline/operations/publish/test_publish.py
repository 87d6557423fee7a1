"""A table holds the rows that count, all of them and no others, in the files that are there."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import s3fs
from typer.testing import CliRunner

import pipeline.operations.publish.publish
from pipeline.__main__ import app
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import read_record, record_path
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.records import Reopened
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.publish.publish import Published, publish
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.lazy import deltalake, polars
from tests.pipeline.made_datasets import DATASET, commit, sound, write_log
from tests.pipeline.operations.published import (
    FORMATS,
    delta,
    iceberg,
    plain_rows,
    same,
    table_rows,
)
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import deliver


@pytest.fixture(params=FORMATS)
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def append(store: Store, unit: str) -> None:
    log = CommitLog(store, fingerprint=DATASET.fingerprint, run="a test")
    log.append([commit(store, deliver(unit))])


def redo(store: Store, unit: str, **options: Any) -> None:
    """Have a unit done again, with another outcome."""
    log = CommitLog(store, fingerprint=DATASET.fingerprint, run="a test")
    [known] = [record for record in read_manifest(store).units() if record.unit == unit]
    log.reopen([Reopened(unit=unit, sources=known.sources)])
    log.plan()
    assert log.append([commit(store, deliver(unit, **options))]).ours == (unit,)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen once, after a table was opened."""
    read = pipeline.operations.publish.publish.read_manifest

    def act_then_read(store: Store) -> Any:
        monkeypatch.setattr(pipeline.operations.publish.publish, "read_manifest", read)
        manifest = read(store)
        act()
        return manifest

    monkeypatch.setattr(pipeline.operations.publish.publish, "read_manifest", act_then_read)


def test_a_table_holds_the_rows_that_count_and_copies_nothing(
    store: Store, table_format: str
) -> None:
    sound(store)
    before = list(store.files())
    result = publish(store, table_format)
    assert (result.files, result.rows, result.added, result.removed) == (6, 21, 6, 0)
    assert result.changed
    assert same(table_rows(store, table_format), plain_rows(store))
    folder = {"delta": "_delta_log/", "iceberg": "iceberg/"}[table_format]
    announced = record_path(4)
    assert read_record(store, 4).published[0].number == 3
    kept = [file for file in store.files() if not file.path.startswith((folder, announced))]
    assert kept == before
    assert verify(store).findings == []
    cleaned = vacuum(store, older_than_hours=0, delete=True)
    assert (cleaned.garbage, cleaned.foreign) == ([], [])
    assert publish(store, table_format).lines()[-1] == f"version    {result.version}: unchanged"


def test_both_formats_live_side_by_side(local: Store) -> None:
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    assert same(table_rows(local, "delta"), table_rows(local, "iceberg"))


def test_query_engines_read_the_same_rows(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # the other one is a package more
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    wanted = plain_rows(local)
    few = wanted.filter(ds.field("unit") == "u-1")
    of_delta = delta(local).to_pyarrow_dataset()  # noqa: F841 - DuckDB finds it by its name
    found = duckdb.sql("SELECT * FROM of_delta WHERE unit = 'u-1'").to_arrow_table()
    assert same(found, few)
    connection = iceberg(local).scan().to_duckdb("clips")
    found = connection.sql("SELECT * FROM clips WHERE fsq_shape = [2, 2, 2]").to_arrow_table()
    small = [shape == [2, 2, 2] for shape in wanted["fsq_shape"].to_pylist()]
    assert same(found, wanted.filter(pa.array(small)))
    for frame in (polars.scan_delta(local.uri), polars.scan_iceberg(iceberg(local))):
        assert same(frame.collect().to_arrow(), wanted)
        assert same(frame.filter(polars.col("unit") == "u-1").collect().to_arrow(), few)
        captions = frame.filter(polars.col("caption").is_null()).collect()
        assert len(captions) == wanted["caption"].null_count


def test_what_a_growing_dataset_adds_is_one_version(local: Store, table_format: str) -> None:
    sound(local)
    first = publish(local, table_format)
    append(local, "u-9")
    second = publish(local, table_format)
    assert (second.added, second.removed, second.version) == (2, 0, first.version + 1)
    assert same(table_rows(local, table_format), plain_rows(local))
    files = list(local.files())
    third = publish(local, table_format)
    assert (third.changed, third.version, third.added) == (False, second.version, 0)
    assert list(local.files()) == files


def test_versions_name_the_record_of_the_log(local: Store) -> None:
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    append(local, "u-9")
    # Each announcement is a record, too: 4 and 5, and 7 of the Delta table before the Iceberg one.
    assert [publish(local, table_format).log_number for table_format in FORMATS] == [6, 7]
    assert delta(local, 1).transaction_version("vidtok") == 3
    assert delta(local).transaction_version("vidtok") == 6
    table = iceberg(local)
    assert [s.summary["vidtok.log_number"] for s in table.snapshots()] == ["4", "7"]
    before = table.scan(snapshot_id=table.snapshots()[0].snapshot_id).to_arrow()
    assert before.num_rows == delta(local, 1).to_pyarrow_dataset().count_rows() == 21


def test_what_was_replaced_is_removed(store: Store, table_format: str) -> None:
    sound(store)
    publish(store, table_format)
    redo(store, "u-1", lost=[2, 3])
    result = publish(store, table_format)
    assert (result.added, result.removed, result.files) == (2, 2, 6)
    assert same(table_rows(store, table_format), plain_rows(store))
    compact(store)
    append(store, "u-9")
    result = publish(store, table_format)
    assert (result.added, result.removed, result.files) == (4, 6, 4)
    assert same(table_rows(store, table_format), plain_rows(store))


def test_vacuum_keeps_what_a_table_names(local: Store, table_format: str) -> None:
    sound(local)
    publish(local, table_format)
    held = table_rows(local, table_format)
    compact(local)
    swept = vacuum(local, older_than_hours=0, delete=True)
    assert (swept.garbage, len(swept.published)) == ([], 6)
    assert table_rows(local, table_format).equals(held)
    publish(local, table_format)
    swept = vacuum(local, older_than_hours=0, delete=True)
    assert (len(swept.garbage), swept.published) == (6, [])
    assert same(table_rows(local, table_format), plain_rows(local))


def test_rows_that_do_not_count_are_not_published(local: Store, table_format: str) -> None:
    sound(local)
    compact(local)
    publish(local, table_format)
    before = table_rows(local, table_format)
    redo(local, "u-1", lost=[1, 2])
    with pytest.raises(StoreError, match=r"merged-.*: 4 of its 12 rows.*compact"):
        publish(local, table_format)
    assert table_rows(local, table_format).equals(before)
    compact(local)
    publish(local, table_format)
    assert same(table_rows(local, table_format), plain_rows(local))


@pytest.mark.parametrize(
    ("where", "first"), [("local", True), ("local", False), ("s3_store", False)]
)
def test_of_two_publishers_one_wins(
    request: pytest.FixtureRequest,
    where: str,
    table_format: str,
    monkeypatch: pytest.MonkeyPatch,
    first: bool,
) -> None:
    """The later one would bring back parts that a newer record of the log replaced."""
    store: Store = request.getfixturevalue(where)
    sound(store)
    if not first:
        publish(store, table_format)
        append(store, "u-9")
    won: list[Published] = []

    def other() -> None:
        compact(store)
        won.append(publish(store, table_format))

    meanwhile(monkeypatch, other)
    with pytest.raises(StoreError, match="run the command again"):
        publish(store, table_format)
    assert same(table_rows(store, table_format), plain_rows(store))
    again = publish(store, table_format)
    assert (again.changed, again.version) == (False, won[0].version)


def test_a_lost_answer_is_no_lost_race(s3_store: Store, s3: S3Server, table_format: str) -> None:
    sound(s3_store)
    publish(s3_store, table_format)
    append(s3_store, "u-9")
    commits = {"delta": "_delta_log/", "iceberg": ".metadata.json"}[table_format]
    with s3.faults.times("lose_reply", 1, part=commits):
        try:
            publish(s3_store, table_format)
        except StoreError:  # Delta's library does not check who wrote the existing commit
            assert table_format == "delta"
    again = publish(s3_store, table_format)
    assert not again.changed
    assert same(table_rows(s3_store, table_format), plain_rows(s3_store))


def test_a_vacuum_of_deltas_leaves_the_dataset_alone(local: Store) -> None:
    """To it log, manifest and all parts that are not in the table are garbage."""
    sound(local)
    publish(local, "delta")
    year_ago = time.time() - 365 * 24 * 3600
    for file in list(local.files()):
        os.utime(local.locate(file.path), (year_ago, year_ago))
    table = delta(local)
    assert table.vacuum(full=True) == []
    with pytest.raises(deltalake.exceptions.DeltaError, match="retention"):
        table.vacuum(full=True, retention_hours=24)
    garbage = table.vacuum(full=True, retention_hours=24, enforce_retention_duration=False)
    assert "dataset.json" in garbage


def test_a_reader_of_one_unit_opens_its_files_alone(local: Store) -> None:
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    tasks = iceberg(local).scan(row_filter="unit = 'u-1'").plan_files()
    assert len(list(tasks)) == 2
    bounds = pa.table(delta(local).get_add_actions(flatten=True)).to_pylist()
    assert sorted((row["min.unit"], row["max.unit"]) for row in bounds) == [
        (unit, unit) for unit in ("u-0", "u-1", "u-2") for _ in range(2)
    ]


def test_a_copied_dataset(local: Store, tmp_path: Path) -> None:
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    copy = Store(str(tmp_path / "copy"))
    shutil.copytree(local.uri, copy.uri)
    shutil.rmtree(local.uri)
    assert same(table_rows(copy, "delta"), plain_rows(copy))
    assert not publish(copy, "delta").changed
    with pytest.raises(ConfigError, match=r"published at file://.*corpus/iceberg.*delete"):
        publish(copy, "iceberg")
    shutil.rmtree(copy.locate("iceberg"))
    publish(copy, "iceberg")
    assert same(table_rows(copy, "iceberg"), plain_rows(copy))


def test_a_dataset_without_rows_is_an_empty_table(local: Store, table_format: str) -> None:
    write_log(local, [])
    assert publish(local, table_format).files == 0
    assert table_rows(local, table_format).num_rows == 0
    assert not publish(local, table_format).changed
    append(local, "u-0")
    publish(local, table_format)
    assert same(table_rows(local, table_format), plain_rows(local))


def test_tables_say_what_the_cells_are(local: Store) -> None:
    sound(local)
    for table_format in FORMATS:
        publish(local, table_format)
    for properties in (delta(local).metadata().configuration, iceberg(local).properties):
        assert properties["vidtok.fsq.dtype"] == "uint16"
        assert [t["name"] for t in json.loads(properties["vidtok"])["tokenizers"]] == ["fsq", "kl"]


def test_refuses_other_formats_and_missing_libraries(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="hudi: no such table format; use delta or iceberg"):
        publish(local, "hudi")
    sound(local)
    for module in FORMATS:
        publish(local, module)
    for library, module in (("deltalake", "delta"), ("pyiceberg.catalog", "iceberg")):
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, library, None)
            missing.delitem(sys.modules, f"pipeline.operations.publish.{module}", raising=False)
            says = rf"{module} table: .*; install the extra: vidtok-pipeline\[publish\]"
            with pytest.raises(ConfigError, match=says):
                publish(local, module)
            with pytest.raises(ConfigError, match=says):
                vacuum(local)


def test_the_command_with_credentials_of_the_environment(
    s3_store: Store, s3: S3Server, table_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(s3_store)
    # One without options may be kept from before, for what the environment said then.
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = ["publish", s3_store.uri, "--format", table_format]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["files"], shown["rows"], shown["log_number"]) == (6, 21, 3)
    assert (
        shown["table"]
        == {
            "delta": s3_store.uri,
            "iceberg": f"{s3_store.uri}/iceberg",
        }[table_format]
    )
    assert "unchanged" in CliRunner().invoke(app, command).stdout


def test_the_command_refuses(local: Store) -> None:
    result = CliRunner().invoke(app, ["publish", local.uri, "--format", "delta"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert CliRunner().invoke(app, ["publish", local.uri]).exit_code == 2
