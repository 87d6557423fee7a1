"""A dataset at one version of its log, whatever is committed, done again or deleted later."""

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.metadata import open_dataset
from pipeline.dataset.records import Reopened
from pipeline.dataset.schema import clip_schema
from pipeline.dataset.tally import Tally
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.vacuum import vacuum
from pipeline.reading import Snapshot, TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit, sound, write_log
from tests.pipeline.reading.worlds import clip_ids
from tests.pipeline.units import SCHEMA, deliver


def rows(snapshot: Snapshot) -> list[str]:
    return sorted(clip_ids([list(TokenDataset(snapshot, ["clip_id"], 4))]))


def test_says_what_it_holds(store: Store) -> None:
    records = sound(store)
    snapshot = pipeline.open(store.uri, storage_options=store.storage_options)
    assert snapshot.version == 3
    assert snapshot.fingerprint == DATASET.fingerprint
    assert snapshot.schema == clip_schema(DATASET.tokenizers) == SCHEMA
    assert snapshot.tokenizers == DATASET.tokenizers
    assert snapshot.counts.clips_written == len(snapshot) == 21
    parts = [part for record in records for part in record.parts]
    assert snapshot.parts() == parts
    by_bucket: Counter[str] = Counter()
    for part in parts:
        by_bucket[part.bucket] += part.rows
    assert snapshot.buckets == by_bucket
    assert list(snapshot.buckets) == sorted(by_bucket)
    assert {part.bucket for part in snapshot.parts("9x16x32")} == {"9x16x32"}
    assert len(rows(snapshot)) == 21


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_version_stays_what_it_was(local: Store, checkpoint: bool) -> None:
    written = [commit(local, deliver(f"u-{n}")) for n in range(4)]
    log = write_log(local, written[:2])
    pinned = pipeline.open(local.uri)
    before = rows(pinned)
    log.append(written[2:])
    if checkpoint:
        write_manifest(local)
    again = pipeline.open(local.uri, pinned.version)
    assert (again.version, again.parts()) == (2, pinned.parts())
    assert rows(again) == before == rows(pinned)
    assert len(rows(pipeline.open(local.uri))) == 2 * len(before)
    assert len(pipeline.open(local.uri, 0)) == 0
    state = TokenDataset(pinned, ["clip_id"], 4).state_dict()
    TokenDataset(again, ["clip_id"], 4).load_state_dict(state)
    newest = TokenDataset(pipeline.open(local.uri), ["clip_id"], 4)
    with pytest.raises(ConfigError, match="state: version = 2, this dataset has 3; use the"):
        newest.load_state_dict(state)


def test_statistics_are_those_of_the_version(local: Store) -> None:
    written = [commit(local, deliver(f"u-{n}", batches=(n + 1,))) for n in range(3)]
    log = write_log(local, written[:2])
    pinned = pipeline.open(local.uri)
    before = pinned.statistics()
    assert before.units == 2
    assert before.total.clips == len(pinned)
    assert before == Tally.of(read_manifest(local))
    log.append(written[2:])
    assert pinned.statistics() == pipeline.open(local.uri, 2).statistics() == before
    newest = pipeline.open(local.uri).statistics()
    assert newest == Tally.of(read_manifest(local)) != before
    assert newest.total.latents["kl"].mean() != before.total.latents["kl"].mean()


def test_a_version_that_the_log_does_not_have(local: Store) -> None:
    sound(local)
    with pytest.raises(ConfigError, match="version = 9: the log has records up to 3; name one"):
        pipeline.open(local.uri, 9)


def test_no_dataset(local: Store) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        pipeline.open(local.uri)


def test_a_log_of_another_dataset(local: Store) -> None:
    sound(local)
    local.delete("dataset.json")
    open_dataset(local, replace(DATASET, fingerprint="0" * 32))
    with pytest.raises(ConfigError, match=rf"log has fingerprint {DATASET.fingerprint}, dataset"):
        pipeline.open(local.uri)


def test_a_unit_that_was_done_again_and_vacuumed(local: Store) -> None:
    """The old version reads on until vacuum deletes its parts, and says so at once afterwards."""
    first, second = (commit(local, deliver(name)) for name in ("u-0", "u-1"))
    write_log(local, [first, second])
    log = CommitLog(local, fingerprint=DATASET.fingerprint)
    log.reopen([Reopened(unit="u-1", sources=second.sources)])
    log.plan()
    other = commit(local, deliver("u-1", batches=(2, 2)))
    log.append([other])
    assert len(rows(pipeline.open(local.uri, 2))) == 16
    assert len(rows(pipeline.open(local.uri))) == 12
    for file in local.files():
        os.utime(local.locate(file.path), (time.time() - 100_000,) * 2)
    vacuum(local, delete=True)
    with pytest.raises(StoreError, match=r"version 2 names it, .* vacuum deleted it; open a newer"):
        pipeline.open(local.uri, 2)
    assert len(rows(pipeline.open(local.uri, 4))) == len(rows(pipeline.open(local.uri))) == 12
    assert len(rows(pipeline.open(local.uri, 1))) == 8, "its parts all count still"


def test_sample(local: Store) -> None:
    sound(local)
    snapshot = pipeline.open(local.uri, storage_options=local.storage_options)
    drawn = snapshot.sample(5, seed=1)
    assert len({row["clip_id"] for row in drawn}) == 5
    names = [row["clip_id"] for row in drawn]
    assert names == [row["clip_id"] for row in snapshot.sample(5, seed=1)]
    assert names != [row["clip_id"] for row in snapshot.sample(5, seed=2)]
    assert len(snapshot.sample(100)) == 21
    written = {}
    for part in snapshot.parts():
        with local.open(part.path) as file:
            written |= {row["clip_id"]: row for row in pq.read_table(file).to_pylist()}
    for row in drawn:
        stored = written[row["clip_id"]]
        for name, kind, dtype in (("fsq", torch.uint16, torch.int64), ("kl", torch.float16, None)):
            cells = torch.frombuffer(bytearray(stored[name]), dtype=kind)
            assert torch.equal(row[name], cells.reshape(stored[f"{name}_shape"]).to(dtype or kind))
        assert row["kl_logvar"].shape == row["kl"].shape
        assert {name: row[name] for name in ("caption", "meta", "crop")} == {
            name: stored[name] for name in ("caption", "meta", "crop")
        }
        assert set(row) == set(stored) - {"fsq_shape", "kl_shape"}


def test_importing_the_package_stays_light() -> None:
    """The child processes that decode import it, too."""
    code = "import sys, pipeline; assert not {'torch', 'pyarrow', 'fsspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
