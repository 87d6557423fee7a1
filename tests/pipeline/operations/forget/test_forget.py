"""What is forgotten is seen by nobody, comes back by no run, and at last is in no file."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.__main__ import app
from pipeline.dataset.log.forgotten import key_digest, read_forgotten
from pipeline.dataset.log.manifest import load_checkpoint, read_manifest
from pipeline.dataset.records import Reopened
from pipeline.dataset.tally import Tally
from pipeline.errors import ConfigError, DamagedFile, StoreError
from pipeline.job.remaining import is_done, subtract
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.operations.stats import stats
from pipeline.operations.status import status
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset, TokenMap
from pipeline.records import LooseFile, WorkUnit
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit, write_log
from tests.pipeline.operations.compacted import open_log
from tests.pipeline.operations.forget.forgetting import (
    BAD,
    GONE,
    deliver_keys,
    erased,
    files_with,
    forget_keys,
    ids,
    keys_of,
    kinds,
    made,
    requests,
    tar_unit,
)


def read_ids(uri: str, version: int | None = None) -> tuple[list[str], list[str]]:
    """Return the ids of the rows as batches and by number, sorted."""
    snapshot = pipeline.open(uri, version=version)
    batches = TokenDataset(snapshot, ["clip_id", "fsq"], 2, strands=2, pool_rows=4)
    shuffled = sorted(clip for batch in batches for clip in batch["clip_id"])
    table = TokenMap(snapshot, ["clip_id", "kl"])
    assert len(snapshot) == len(table) == len(shuffled)
    return shuffled, sorted(table[n]["clip_id"] for n in range(len(table)))


def test_no_byte_is_left(store: Store) -> None:
    made(store)
    assert len(files_with(store, GONE)) == 1, "the search finds what is there"
    assert kinds(store) == []
    result = forget_keys(store, GONE)
    assert (result.new, result.units, result.samples, result.clips) == (1, 1, 1, 2)
    assert len(ids(store)) == 14
    assert not [clip for clip in ids(store) if GONE in clip]
    [found] = verify(store, forgotten=True).findings
    assert (found.kind, found.detail[:21]) == ("remains", "1 sample; run compact")
    compact(store)
    assert kinds(store) == ["remains"]
    [found] = verify(store, forgotten=True).findings
    assert found.detail.startswith("1 sample; no record names it; run vacuum")
    vacuum(store, older_than_hours=0, delete=True)
    assert files_with(store, GONE) == []
    checked = verify(store, forgotten=True)
    assert (checked.findings, checked.forgets) == ([], 1)
    assert len(ids(store)) == 14


def test_readers_leave_the_rows_out_at_once(local: Store) -> None:
    made(local)
    before = read_ids(local.uri)[0]
    forget_keys(local, GONE, keys_of("b")[0], keys_of("b")[3])
    gone = {f"a/{GONE}", f"b/{keys_of('b')[0]}", f"b/{keys_of('b')[3]}"}
    wanted = [clip for clip in before if clip.rpartition("/")[0] not in gone]
    assert len(wanted) == 10
    assert read_ids(local.uri) == (wanted, wanted)
    snapshot = pipeline.open(local.uri)
    assert sorted(row["clip_id"] for row in snapshot.sample(99)) == wanted
    tally = Tally.of(read_manifest(local))
    assert tally.problems == []
    assert (tally.counts.samples_forgotten, tally.counts.clips_forgotten) == (3, 6)
    text = "\n".join(status(local).lines())
    assert "samples    10 read = 5 with clips + 1 filtered + 1 quarantined + 3 forgotten" in text
    assert "forgotten  6 clips" in "\n".join(stats(local).lines())
    assert verify(local).findings == []
    erased(local)
    assert read_ids(local.uri) == (wanted, wanted)
    assert verify(local).findings == []


def test_quarantined_and_filtered_samples(local: Store) -> None:
    made(local)
    result = forget_keys(local, BAD, f"{BAD}-short")
    assert (result.samples, result.clips, result.quarantined) == (2, 0, 2)
    record = read_manifest(local).unit("a")
    assert record is not None
    assert (record.quarantine, record.reasons, record.counts.imbalance()) == (None, {}, None)
    assert verify(local).findings == []
    erased(local)
    assert files_with(local, BAD) == []


def test_one_row_of_a_quarantine_table(local: Store) -> None:
    made(local)
    assert forget_keys(local, BAD).quarantined == 1
    record = read_manifest(local).unit("a")
    assert record is not None
    assert record.reasons == {"too_short": 1}
    assert verify(local).findings == []
    assert files_with(local, f"{BAD} is bad") != []
    erased(local)
    assert files_with(local, f"{BAD} is bad") == []
    assert len(files_with(local, f"{BAD}-short")) == 1


def test_a_compaction_of_these_parts_alone(local: Store) -> None:
    made(local)
    others = {part.path for part in read_manifest(local).parts() if "/b-" in part.path}
    forget_keys(local, GONE)
    assert compact(local, small_share=0).files_before == 1
    assert others <= {part.path for part in read_manifest(local).parts()}
    vacuum(local, older_than_hours=0, delete=True)
    assert files_with(local, GONE) == []


def test_again_is_no_change_and_what_is_not_there_is_recorded(local: Store) -> None:
    made(local)
    first = forget_keys(local, GONE, "not/there")
    assert (first.new, first.not_found) == (2, ["not/there"])
    number = read_manifest(local).number
    second = forget_keys(local, GONE, "not/there")
    assert (second.new, second.units, second.clips) == (0, 0, 0)
    assert second.not_found == [GONE, "not/there"]
    assert read_manifest(local).number == number
    assert read_forgotten(local, read_manifest(local).forgets).digests == {
        key_digest(GONE),
        key_digest("not/there"),
    }


def test_all_rows_of_a_unit(local: Store) -> None:
    made(local)
    forget_keys(local, *keys_of("a"), BAD, f"{BAD}-short")
    record = read_manifest(local).unit("a")
    assert record is not None
    assert (record.files, record.counts.clips_written) == ((), 0)
    assert verify(local).findings == []
    vacuum(local, older_than_hours=0, delete=True)
    assert files_with(local, "private-a") == [], "no compaction is needed"
    assert subtract([tar_unit("a")], open_log(local).committed) == []


def test_merged_parts(local: Store) -> None:
    made(local)
    compact(local)
    before = ids(local)
    forget_keys(local, GONE, *keys_of("b"))
    wanted = [clip for clip in before if GONE not in clip and "private-b" not in clip]
    assert read_ids(local.uri) == (wanted, wanted)
    assert verify(local).findings == []
    assert kinds(local) == ["remains"]
    forget_keys(local, keys_of("a")[2])
    wanted = [clip for clip in wanted if keys_of("a")[2] not in clip]
    assert read_ids(local.uri) == (wanted, wanted)
    erased(local)
    assert read_ids(local.uri) == (wanted, wanted)
    assert files_with(local, "private-b") == files_with(local, GONE) == []


def test_many_digests_take_several_records(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(local)
    number = read_manifest(local).number
    many = [f"other-{n}" for n in range(60_000)]
    assert forget_keys(local, *many, GONE).new == 60_001
    manifest = read_manifest(local)
    assert (len(manifest.forgets), manifest.number - number) == (3, 4)
    assert max(f.bytes for f in local.files("log")) < 1 << 20
    assert len(read_forgotten(local, manifest.forgets).digests) == 60_001


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl"])
def test_tables(local: Store, tmp_path: Path, suffix: str) -> None:
    made(local)
    shared = "007"
    rows = [
        {"key": GONE, "unit": "b", "source": None},
        {"key": keys_of("b")[0], "unit": "b", "source": None},
        {"key": shared, "unit": None, "source": None},
    ]
    path = tmp_path / f"down.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "distance": 3} for row in rows]), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    result = forget(local, read_requests((), (), str(path)))
    assert load_checkpoint(local, read_manifest(local).number).forgets == (3,)
    assert result.not_found == sorted([f"b/{GONE}", shared])
    assert (result.requests, result.clips) == (3, 2)
    assert [clip for clip in ids(local) if GONE in clip], "the key is that of another unit"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.txt", "key\nx\n", "must end in"),
        ("t.csv", "name\nx\n", "no column key or source"),
        ("t.csv", "key\n", "has no row"),
        ("t.csv", "key,source\nx,/y\n", "row 0"),
        ("t.csv", "key,unit\n,u\n", "row 0"),
        ("t.jsonl", '{"key": 7}\n', "row 0"),
        ("t.jsonl", "[1]\n", "not a JSON object"),
        ("t.parquet", "no parquet", "cannot be read"),
    ],
)
def test_tables_that_name_something_else(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_requests((), (), str(tmp_path / name))
    with pytest.raises(ConfigError, match="no such file"):
        read_requests((), (), str(tmp_path / "missing.csv"))
    with pytest.raises(ConfigError, match="no sample is named"):
        read_requests((), ())


def test_a_tar_as_source(local: Store) -> None:
    made(local)
    result = forget(local, requests(sources=["/in/a.tar"]))
    assert (result.clips, result.quarantined, result.not_found) == (8, 2, [])
    assert {clip.partition("/")[0] for clip in ids(local)} == {"b"}
    erased(local)
    assert files_with(local, "private-a") == files_with(local, BAD) == []
    assert kinds(local) == []
    new = forget(local, requests(sources=["/in/c.tar"]))
    assert new.not_found == ["/in/c.tar"]
    assert subtract([tar_unit("c"), tar_unit("d")], open_log(local).committed) == [tar_unit("d")]


def loose(*names: str) -> WorkUnit:
    files = tuple(LooseFile(key=name, uri=f"/in/{name}") for name in names)
    return WorkUnit(unit="run", files=files)


def test_a_file_as_source(local: Store) -> None:
    """The keys are below the source's folder, which the log does not name."""
    names = ["b.mp4", "x/b.mp4", "x/x/b.mp4"]
    write_log(local, [commit(local, deliver_keys(loose(*names), names))])
    for _ in range(2):
        forget(local, requests(sources=["/in/x/b.mp4"]))
        assert {clip.split("/", 1)[1][:-2] for clip in ids(local)} == {"b.mp4", "x/x/b.mp4"}
    log = open_log(local)
    log.reopen([Reopened(unit="run", sources=tuple(f"/in/{name}" for name in names))])
    assert log.committed.forgotten.has("run", "x/b.mp4")
    assert forget(local, requests(sources=["/in/new.mp4"])).units == 0
    planned = loose("new.mp4", "other.mp4")
    [left] = subtract([planned], open_log(local).committed)
    assert [file.key for file in left.files] == ["other.mp4"]
    assert is_done(loose("new.mp4", "x/b.mp4"), open_log(local).committed)
    assert not is_done(planned, open_log(local).committed)


def test_rows_of_a_list_as_source(local: Store) -> None:
    unit = tar_unit("rows")
    record = commit(local, deliver_keys(unit, keys_of("rows")))
    write_log(local, [replace(record, sources=("/in/list.csv#rows=0-4",))])
    with pytest.raises(ConfigError, match="name the samples with --key"):
        forget(local, requests(sources=["/in/list.csv#rows=1-2"]))
    assert len(ids(local)) == 8
    assert forget(local, requests(sources=["/in/list.csv#rows=0-4"])).clips == 8
    assert ids(local) == []
    assert forget(local, requests(sources=["/in/list.csv"])).not_found == ["/in/list.csv"]


def test_readers_of_an_older_version_are_told(local: Store) -> None:
    made(local)
    version = read_manifest(local).number
    pinned = pipeline.open(local.uri)
    batches = TokenDataset(pinned, ["clip_id"], 2)
    state = batches.state_dict()
    assert forget_keys(local, "not/there").new == 1
    assert len(pipeline.open(local.uri, version=version)) == 16, "it holds nothing that was"
    forget_keys(local, GONE)
    with pytest.raises(StoreError, match=r"version 2 has samples in 1 unit that were forgotten"):
        pipeline.open(local.uri, version=version)
    with pytest.raises(ConfigError, match="state: version = 2, this dataset has 5"):
        TokenDataset(pipeline.open(local.uri), ["clip_id"], 2).load_state_dict(state)
    assert sum(len(batch["clip_id"]) for batch in batches) == 16, "its files are there"
    erased(local)
    with pytest.raises(DamagedFile, match="samples were forgotten"):
        list(TokenDataset(pinned, ["clip_id"], 2))


def test_command(local: Store) -> None:
    made(local)
    done = CliRunner().invoke(app, ["forget", local.uri, "--key", GONE, "--key", "no"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "forgotten  2 requests, 2 new · 1 found now",
        "left out   2 rows of 1 sample in 1 unit",
        "not found  1: not there, or forgotten before; later runs leave them out",
        "  no",
        "siblings   a dataset that embed made from this needs its own call",
        "next       compact, vacuum --delete a day later; then verify --forgotten",
    ]
    assert CliRunner().invoke(app, ["forget", local.uri]).exit_code == 2
    done = CliRunner().invoke(app, ["verify", local.uri, "--forgotten", "--sample", "0"])
    assert done.exit_code == 1
    assert "forgotten  2 keys and sources searched for · found in 1 file" in done.stdout
    with pytest.raises(ConfigError, match="no dataset"):
        forget(Store(local.uri + "-none"), requests(keys=["x"]))
    assert DATASET.fingerprint == read_manifest(local).fingerprint
