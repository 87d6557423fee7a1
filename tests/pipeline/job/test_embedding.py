"""Siblings: the rows of a parent with text embeddings, followed when the parent changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.commands import main
from pipeline.config.embed import EmbedConfig
from pipeline.dataset.cells import to_tensor
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.records import Reopened, UnitRecord
from pipeline.errors import ConfigError, DatasetMismatch
from pipeline.job.embedding import open_embedding, state_of
from pipeline.operations.compact import compact
from pipeline.operations.verify.verify import verify
from pipeline.reading.snapshot import open_snapshot
from pipeline.reading.token_dataset import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.embedded import embed_config, embedded
from tests.pipeline.made_datasets import DATASET, commit, sound
from tests.pipeline.text_models import called, save_text_model
from tests.pipeline.units import deliver


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("umt5"))


@pytest.fixture
def parent(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "tokens"))
    sound(store)
    return store


def rows_of(store: Store, record: UnitRecord) -> list[dict[str, Any]]:
    """Return the rows of a unit in the order of its parts."""
    rows: list[dict[str, Any]] = []
    for part in record.parts:
        with store.open(part.path) as file:
            rows += pq.read_table(file).to_pylist()
    return rows


def test_a_sibling_has_the_rows_of_its_parent_and_the_librarys_embeddings(
    parent: Store, weights: Path, tmp_path: Path
) -> None:
    store, records = embedded(embed_config(parent.uri, weights, str(tmp_path / "text")))
    theirs = {record.unit: record for record in read_manifest(parent).units()}
    [column] = read_dataset(store).tokenizers
    assert [record.unit for record in records] == list(theirs)
    for record in records:
        ours, rows = rows_of(store, record), rows_of(parent, theirs[record.unit])
        assert [p.bucket for p in record.parts] == [p.bucket for p in theirs[record.unit].parts]
        same = ("clip_id", "key", "clip_index", "start_s", "end_s", "crop", "caption")
        assert [[row[name] for name in same] for row in ours] == [
            [row[name] for name in same] for row in rows
        ]
        assert all(row["meta"] is None for row in ours)
        for row in ours:
            output = called(weights, "UMT5EncoderModel", row["caption"] or "")
            wanted = output.last_hidden_state[0].to(torch.bfloat16)
            cells = np.frombuffer(row["text"], column.stored_dtype).reshape(row["text_shape"])
            assert torch.equal(to_tensor(cells, column), wanted)
            assert len(row["text_ids"]) == len(wanted)
    result = verify(store)
    assert not result.findings
    assert result.exit_code == 0


def test_a_killed_run_is_continued_with_the_same_rows(
    parent: Store, weights: Path, tmp_path: Path
) -> None:
    whole, records = embedded(embed_config(parent.uri, weights, str(tmp_path / "whole")))
    config = embed_config(parent.uri, weights, str(tmp_path / "parts"))
    store, first = embedded(config, units=1)
    _, rest = embedded(config)
    assert [record.unit for record in [*first, *rest]] == [record.unit for record in records]
    for one, other in zip([*first, *rest], records, strict=True):
        assert rows_of(store, one) == rows_of(whole, other)
    assert not embedded(config)[1]


def test_a_unit_that_the_parent_does_again_is_embedded_again(
    parent: Store, weights: Path, tmp_path: Path
) -> None:
    config = embed_config(parent.uri, weights, str(tmp_path / "text"))
    store, records = embedded(config)
    log = CommitLog(parent, fingerprint=DATASET.fingerprint)
    old = records[1].unit
    sources = next(u.sources for u in read_manifest(parent).units() if u.unit == old)
    log.reopen([Reopened(unit=old, sources=sources)])
    assert not open_embedding(config).remaining()  # until it is replaced, it counts as it is
    log.plan()
    delivery = deliver(old, lost=[0])
    closing = replace(delivery.closing, timings={"decode": 2.5})
    log.append([commit(parent, replace(delivery, closing=closing))])
    job = open_embedding(config)
    assert [unit.unit for unit in job.remaining()] == [old]
    assert job.notes[-1].startswith("again      1 unit was done again")
    [record] = embedded(config)[1]
    ids = [row["clip_id"] for row in rows_of(store, record)]
    [theirs] = [unit for unit in read_manifest(parent).units() if unit.unit == old]
    assert ids == [row["clip_id"] for row in rows_of(parent, theirs)]
    assert f"{old}/k0/0" not in ids
    assert record.sources == (state_of(theirs),)
    assert not verify(store).findings


def test_merged_parts_of_the_parent_change_nothing(
    parent: Store, weights: Path, tmp_path: Path
) -> None:
    config = embed_config(parent.uri, weights, str(tmp_path / "text"))
    _, records = embedded(config)
    assert compact(parent).files_after
    assert not open_embedding(config).remaining()
    after, again = embedded(embed_config(parent.uri, weights, str(tmp_path / "after")))
    for one, other in zip(again, records, strict=True):
        assert rows_of(after, one) == rows_of(Store(str(tmp_path / "text")), other)


def test_a_sibling_itself_is_merged_and_read(parent: Store, weights: Path, tmp_path: Path) -> None:
    store, records = embedded(embed_config(parent.uri, weights, str(tmp_path / "text")))
    wanted = {row["clip_id"]: row["text"] for record in records for row in rows_of(store, record)}
    assert compact(store).files_after
    assert not verify(store).findings
    snapshot = open_snapshot(store.uri)
    sampled = {row["clip_id"]: row["text"] for row in snapshot.sample(100)}
    read = {}
    for batch in TokenDataset(snapshot, ["text", "text_ids", "clip_id"], batch=4):
        read.update(zip(batch["clip_id"], batch["text"], strict=True))
        assert [len(ids) for ids in batch["text_ids"]] == [len(text) for text in batch["text"]]
    for found in (sampled, read):
        cells = {key: text.view(torch.int16).numpy().tobytes() for key, text in found.items()}
        assert cells == wanted


def test_other_weights_or_settings_are_another_dataset(
    parent: Store, weights: Path, tmp_path: Path
) -> None:
    config = embed_config(parent.uri, weights, str(tmp_path / "text"))
    open_embedding(config)
    with pytest.raises(DatasetMismatch, match=r"embedders\.text\.max_tokens: 512 .* 8 in this run"):
        open_embedding(embed_config(parent.uri, weights, str(tmp_path / "text"), max_tokens=8))
    other = save_text_model(tmp_path / "other", seed=1)
    with pytest.raises(DatasetMismatch, match=r"embedders\.text\.weights"):
        open_embedding(embed_config(parent.uri, other, str(tmp_path / "text")))
    words = other / "tokenizer_config.json"
    words.write_text(words.read_text() + "\n")
    again = embed_config(parent.uri, other, str(tmp_path / "tokenizer"))
    open_embedding(again)
    words.write_text(words.read_text() + "\n")
    with pytest.raises(DatasetMismatch, match=r"embedders\.text\.weights"):
        open_embedding(again)


def test_a_version_of_the_parent_can_be_named(parent: Store, weights: Path, tmp_path: Path) -> None:
    values = embed_config(parent.uri, weights, str(tmp_path / "text")).model_dump(by_alias=True)
    values["from"]["version"] = 1
    job = open_embedding(EmbedConfig.model_validate(values))
    assert [unit.unit for unit in job.plan] == ["u-0"]
    values["from"]["version"] = 99
    with pytest.raises(ConfigError, match="version = 99"):
        open_embedding(EmbedConfig.model_validate(values))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from": "{here}/none"}, "{here}/none: no dataset: dataset.json is missing"),
        ({"weights": "{here}/none"}, "neither a folder nor the id of a model on the Hub"),
        ({"model": "transformers:NoSuchModel"}, "transformers has no model class NoSuchModel"),
        ({"model": "transformers:CLIPTextModel"}, "not those of CLIPTextModel"),
    ],
)
def test_what_cannot_be_embedded_is_one_line(
    parent: Store,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    text: str,
) -> None:
    change = {key: value.format(here=tmp_path) for key, value in change.items()}
    uri = change.pop("from", parent.uri)
    folder = Path(change.pop("weights", weights))
    config = embed_config(uri, folder, str(tmp_path / "text"), **change)
    path = tmp_path / "embed.yaml"
    path.write_text(yaml.safe_dump(config.public()))
    assert main(["embed", str(path)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert text.format(here=tmp_path) in line
    assert not (tmp_path / "text/log").exists()


def test_without_the_package_transformers_one_line_names_the_extra(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "embed.yaml"
    path.write_text(yaml.safe_dump(embed_config("in", weights, "out").public()))
    monkeypatch.setattr("pipeline.job.config_checks.find_spec", lambda _: None)
    assert main(["embed", str(path), "from.uri=other"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: {path}: embedders.0.model = transformers:UMT5EncoderModel: needs transformers;"
        " pip install 'vidtok-pipeline[transformers]'"
    )


def test_settings_that_do_not_fit_are_named_together(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "embed.yaml"
    spec = {"name": "caption", "model": "transformers:T5EncoderModel", "weights": "w"}
    values = {
        "from": {"uri": "same"},
        "embedders": [spec],
        "output": {"uri": "same"},
        "slice": "3/3",
    }
    path.write_text(yaml.safe_dump(values))
    assert main(["embed", str(path), "from.urii=x"]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert "from.urii: no such key; did you mean uri?" in error
    assert main(["embed", str(path)]) == 2
    fields = [line.split(": ")[-2] for line in capsys.readouterr().err.splitlines()]
    assert fields == [
        "embedders = caption",
        "slice = 3/3",
        "output.uri = same",
    ]
