"""Numbers that tokenizers give for each clip, such as `N_channels`, are compared like tokens."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.job import JobConfig
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.row_sampling import draw_rows
from pipeline.operations.diff import diff
from pipeline.operations.publish.publish import publish
from pipeline.operations.recompute import Recomputer, SourceClip
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from pipeline.tokenizers.encoder import ClipEncoder
from tests.assets import HIKER
from tests.lazy import polars
from tests.pipeline.operations.published import FORMATS, iceberg, plain_rows, same, table_rows
from tests.pipeline.tokenized import tokenized


def made(folder: Path) -> Store:
    fsq = {
        "name": "fsq",
        "model": "vidtok_fsq_causal_488_262144_tiny",
        "hold": {"max_loss_db": 0.2},
        "channels": {"max_loss_db": 1.0},
    }
    values = {
        "source": {"uri": [str(HIKER.path)]},
        "clip": {"frames": 5, "height": 32, "width": 32, "max_per_sample": 1},
        "tokenizers": [fsq],
        "output": {"uri": str(folder)},
    }
    return tokenized(JobConfig.model_validate(values))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("numbers") / "out")


def test_other_numbers_than_those_of_the_clip_are_found(store: Store) -> None:
    drawn = draw_rows(read_manifest(store), 1, seed=0)
    dataset = read_dataset(store)
    with closing(Recomputer(store, dataset, retokenize=True, decode=False)) as recomputer:
        [found] = recomputer.clips(drawn)
        assert isinstance(found, SourceClip)
        assert list(recomputer.retokenize(found)) == []
        for name in ("fsq_hold", "fsq_repeats", "fsq_channels"):
            row = {**found.row, name: found.row[name] + 1}
            [wrong] = recomputer.retokenize(replace(found, row=row))
            assert (wrong.kind, wrong.where) == ("tokens", row["clip_id"])
            assert wrong.detail == f"{name}: {found.row[name]} now, {row[name]} recorded"


def test_a_clip_that_cannot_be_decoded_here_is_a_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a decoder in half precision, which overflows on this device."""

    def overflow(*_: object) -> float:
        raise ValueError("NaN or infinity among the decoded values")

    monkeypatch.setattr(ClipEncoder, "_psnr", overflow)
    [found] = verify(store, retokenize=1).findings
    assert found.kind == "tokens"
    assert found.detail == (
        "cannot be encoded again: ValueError: NaN or infinity among the decoded values"
    )


def test_a_rule_that_chooses_other_numbers_is_found(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other_rule:
        other_rule.setattr("pipeline.tokenizers.bits_by_scene.fewest_channels", lambda *_: 1)
        other = made(tmp_path / "out")
    result = diff(store, other)
    assert {n: group.count for n, group in result.clips_differ.items() if group.count} == {"fsq": 1}
    assert (result.exit_code, result.settings) == (1, {})
    assert "  1 have other fsq tokens or numbers" in result.lines()
    [found] = verify(other, retokenize=1).findings
    assert found.kind == "tokens"
    assert found.detail.startswith("fsq_channels: ")
    assert diff(store, store).exit_code == 0


def test_a_table_has_the_numbers_for_strict_readers_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polars refuses a column of `uint8` that the table calls `byte`."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    copy = Store(str(shutil.copytree(store.uri, tmp_path / "copy")))
    wanted = plain_rows(copy)
    for table_format in FORMATS:
        publish(copy, table_format)
        assert same(table_rows(copy, table_format), wanted)
    for frame in (polars.scan_delta(copy.uri), polars.scan_iceberg(iceberg(copy))):
        assert same(frame.collect().to_arrow(), wanted)
