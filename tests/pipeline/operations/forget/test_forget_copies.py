"""Copies of rows: published tables, exports, and datasets that are joined."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.dataset.log.manifest import read_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.export.export import export
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.operations.publish.publish import publish
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import write_log
from tests.pipeline.operations.export.worlds import write_latents, write_texts
from tests.pipeline.operations.forget.forgetting import (
    GONE,
    commit_keys,
    files_with,
    forget_keys,
    ids,
)
from tests.pipeline.operations.published import table_rows

UNITS = {"a": 6, "b": 4}


def test_a_table_never_names_a_file_with_forgotten_rows(local: Store) -> None:
    write_log(local, [commit_keys(local, "a")])
    publish(local, "delta")
    assert forget_keys(local, GONE).lines()[-1].startswith("next       compact, publish, vacuum")
    with pytest.raises(StoreError, match="no longer count, because they were forgotten"):
        publish(local, "delta")
    compact(local)
    assert vacuum(local, older_than_hours=0, delete=True).garbage == []
    [found] = verify(local, forgotten=True).findings
    assert "after publish if a table names it" in found.detail
    publish(local, "delta")
    assert sorted(table_rows(local, "delta")["clip_id"].to_pylist()) == ids(local)
    vacuum(local, older_than_hours=0, delete=True)
    assert files_with(local, GONE) == []
    assert verify(local, forgotten=True).findings == []


def test_an_export_from_before_is_refused(local: Store, tmp_path: Path) -> None:
    write_latents(local, UNITS)
    out = str(tmp_path / "out")
    assert export(local.uri, "webdataset", out).clips == 10
    forget_keys(local, "k1")
    with pytest.raises(ConfigError, match="some of its clips were forgotten since"):
        export(local.uri, "webdataset", out)
    made = export(local.uri, "webdataset", str(tmp_path / "out-2"))
    assert (made.clips, made.rows, made.exit_code) == (6, 6, 0)


def test_rows_of_a_sibling_go_with_those_of_its_parent(local: Store, tmp_path: Path) -> None:
    texts = Store(str(tmp_path / "texts"))
    write_latents(local, UNITS)
    write_texts(texts, local, UNITS)
    forget_keys(local, "k1")

    def joined() -> tuple[list[str], int]:
        both = pipeline.open(local.uri).join(pipeline.open(texts.uri))
        found = TokenDataset(both, ["clip_id", "wan", "text"], 2, shuffle=False)
        return sorted(clip for batch in found for clip in batch["clip_id"]), (
            both.missing[0].clips_there
        )

    wanted = ["a/k0/0", "a/k0/1", "a/k2/0", "a/k2/1", "b/k0/0", "b/k0/1"]
    assert joined() == (wanted, 4), "no unit is stale, only the rows are without a clip"
    assert forget_keys(texts, "k1").clips == 4
    assert joined() == (wanted, 0)
    for store in (local, texts):
        compact(store)
        vacuum(store, older_than_hours=0, delete=True)
        assert files_with(store, "/k1/") == []
    assert joined() == (wanted, 0)


def test_a_source_is_not_forgotten_in_a_sibling_without_effect(
    local: Store, tmp_path: Path
) -> None:
    """A sibling records no URI, so it would say that the source is not there, and keep the text."""
    texts = Store(str(tmp_path / "texts"))
    write_latents(local, UNITS)
    write_texts(texts, local, UNITS)
    requests = read_requests([], ["/in/a.tar"])
    assert forget(local, requests).clips == 6
    with pytest.raises(ConfigError, match=r"--source /in/a\.tar: .* made by embed, .* --key, or"):
        forget(texts, requests)
    assert read_manifest(texts).forgets == ()


def test_rows_of_a_table_are_joined_to_what_is_left(local: Store, tmp_path: Path) -> None:

    write_latents(local, UNITS)
    scores = pa.table({"clip_id": ids(local), "score": range(10)})
    pq.write_table(scores, tmp_path / "scores.parquet")
    forget_keys(local, "k1")
    both = pipeline.open(local.uri).join(str(tmp_path / "scores.parquet"))
    known = dict(zip(*(scores[name].to_pylist() for name in ("clip_id", "score")), strict=True))
    found = {
        clip: int(score)
        for batch in TokenDataset(both, ["clip_id", "score"], 2)
        for clip, score in zip(batch["clip_id"], batch["score"], strict=True)
    }
    assert found == {clip: score for clip, score in known.items() if "/k1/" not in clip}
