"""Two datasets are the same, or every difference is counted where it lies."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.metadata import new_dataset
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.diff import diff
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import IDENTITY, commit, sound, with_column, with_rows, write_log
from tests.pipeline.units import FSQ, KL, deliver


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Store, Store]:
    return Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))


def test_the_same_twice(store: Store) -> None:
    sound(store)
    result = diff(store, store)
    assert result.exit_code == 0
    assert (result.units.both, result.clips.both) == (3, 21)
    assert result.lines()[-1] == "verdict    the same"


def test_other_parts_of_the_same_clips_are_no_difference(pair: tuple[Store, Store]) -> None:
    """Other row groups and parts, other places in the log: the clips are what counts."""
    units = [deliver(f"u-{n}") for n in range(3)]
    write_log(pair[0], [commit(pair[0], unit) for unit in units])
    options = {"row_group_bytes": 400, "max_part_bytes": 1}
    write_log(pair[1], [commit(pair[1], unit, **options) for unit in units[::-1]])
    result = diff(*pair)
    assert (result.exit_code, result.clips.both) == (0, 24)


def test_settings_and_fingerprints(pair: tuple[Store, Store]) -> None:
    sound(pair[0])
    other = {**IDENTITY, "clip": {**IDENTITY["clip"], "fps": 12.0}}
    write_log(pair[1], [commit(pair[1], deliver("u-0", lost=[0]))], new_dataset((FSQ, KL), other))
    result = diff(*pair)
    assert result.settings == {"clip.fps": ["8.0", "12.0"]}
    assert result.fingerprints[0] != result.fingerprints[1]
    assert "  clip.fps: 8.0 | 12.0" in result.lines()
    assert (result.exit_code, result.clips.both) == (1, 7)
    assert all(group.count == 0 for group in result.clips_differ.values())


def test_units_and_clips_in_one_only(pair: tuple[Store, Store]) -> None:
    write_log(pair[0], [commit(pair[0], deliver(f"u-{n}")) for n in (1, 2)])
    write_log(pair[1], [commit(pair[1], deliver(f"u-{n}", lost=[4])) for n in (2, 3, 4)])
    result = diff(*pair)
    assert result.exit_code == 1
    assert result.units.both == 1
    assert result.units.only_a.examples == ["u-1"]
    assert result.units.only_b.examples == ["u-3", "u-4"]
    assert result.clips.only_a.examples == ["u-2/k2/0"]
    assert result.clips.only_b.count == 0
    assert result.clips.both == 7
    assert result.quarantine.examples == ["u-2/k2/0: - | non_finite"]
    text = "\n".join(result.lines())
    for line in ("  1 only in a\n    u-1\n", "  2 only in b\n", "    u-2/k2/0\n"):
        assert line in text
    assert list(diff(*pair[::-1]).clips.only_b.examples) == ["u-2/k2/0"]


def flipped(rows: pa.Table, name: str) -> pa.Table:
    cells = [bytes([value[0] ^ 1]) + value[1:] for value in rows[name].to_pylist()]
    return with_column(rows, name, cells)


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (lambda rows: flipped(rows, "fsq"), "fsq"),
        (lambda rows: flipped(rows, "kl"), "kl"),
        (lambda rows: flipped(rows, "kl_logvar"), "kl"),
        (lambda rows: with_column(rows, "fsq_shape", [[8]] * rows.num_rows), "fsq"),
        (lambda rows: with_column(rows, "end_s", [7.5] * rows.num_rows), "clip.place"),
        (lambda rows: with_column(rows, "caption", ["another"] * rows.num_rows), "caption"),
        (lambda rows: with_column(rows, "source_fps", [7.5] * rows.num_rows), "source_fps"),
    ],
)
def test_clips_whose_tokens_differ(
    pair: tuple[Store, Store], change: Callable[[pa.Table], pa.Table], which: str
) -> None:
    write_log(pair[0], [commit(pair[0], deliver("u-1"))])
    write_log(pair[1], [with_rows(pair[1], commit(pair[1], deliver("u-1")), change)])
    result = diff(*pair)
    counts = {name: group.count for name, group in result.clips_differ.items()}
    others = ("source_fps", "source_height", "source_width", "caption", "meta")
    assert counts == dict.fromkeys(("clip.place", "fsq", "kl", *others), 0) | {which: 5}
    texts = {
        "clip.place": "are cut from another place",
        "fsq": "have other fsq tokens or numbers",
        "kl": "have other kl tokens or numbers",
    }
    text = texts.get(which, f"have another value in the column {which}")
    assert f"  5 {text}" in result.lines()
    assert result.clips.both == 8
    assert len(result.clips_differ[which].examples) == 5
    assert result.exit_code == 1


def test_tokenizers_that_one_does_not_have(pair: tuple[Store, Store]) -> None:
    sound(pair[0])
    shutil.copytree(pair[0].uri, pair[1].uri)
    only = replace(KL, logvar=False)
    head = new_dataset((only,), {**IDENTITY, "tokenizers": {"kl": IDENTITY["tokenizers"]["kl"]}})
    pair[1].delete("dataset.json")
    for path in (*pair[1].list("log"), *pair[1].list("manifest")):
        pair[1].delete(path)
    write_log(pair[1], [], head)
    result = diff(*pair)
    assert {"clip.place", "kl", "caption"} <= set(result.clips_differ)
    assert result.tokenizers == ("kl",)
    assert not any(name.startswith("fsq") for name in result.clips_differ)
    assert result.units.only_a.count == 3
    assert any(name.startswith("tokenizers.fsq") for name in result.settings)


def test_other_forgotten_samples_of_one_file(pair: tuple[Store, Store]) -> None:
    """The files are equal, and so are their numbers of rows that count."""
    write_log(pair[0], [commit(pair[0], deliver("u-1"))])
    shutil.copytree(pair[0].uri, pair[1].uri)
    for store, key in zip(pair, ("k0", "k3"), strict=True):
        assert forget(store, read_requests([key], [])).clips == 2
    result = diff(*pair)
    assert (result.exit_code, result.clips.both) == (1, 4)
    assert result.clips.only_a.examples == ["u-1/k3/0", "u-1/k3/1"]
    assert result.clips.only_b.examples == ["u-1/k0/0", "u-1/k0/1"]


def test_a_damaged_part_and_a_missing_dataset(pair: tuple[Store, Store]) -> None:
    unit = commit(pair[0], deliver("u-1"))
    write_log(pair[0], [unit])
    write_log(pair[1], [commit(pair[1], deliver("u-1", lost=[1]))])
    pair[0].write(unit.parts[0].path, b"PAR1")
    with pytest.raises(StoreError, match=r"u-1-0-.*pipeline verify"):
        diff(*pair)
    pair[0].delete(unit.parts[0].path)
    with pytest.raises(StoreError, match="pipeline verify"):
        diff(*pair)
    with pytest.raises(ConfigError, match="no dataset"):
        diff(pair[0], Store(pair[0].uri + "-none"))


def test_command(pair: tuple[Store, Store]) -> None:
    sound(pair[0])
    sound(pair[1], units=2)
    run: Any = CliRunner().invoke
    assert run(app, ["diff", pair[0].uri, pair[0].uri]).exit_code == 0
    done = run(app, ["diff", pair[0].uri, pair[1].uri, "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["same"] is False
    assert found["units"] == {
        "both": 2,
        "only_a": {"count": 1, "examples": ["u-2"]},
        "only_b": {"count": 0, "examples": []},
    }
    assert run(app, ["diff", pair[0].uri, "/nowhere"]).exit_code == 2
