"""A dataset from a stranger: every JSON value may be any other; parts may be any file."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.dataset import Tally
from pipeline.dataset.log.log_records import record_path
from pipeline.errors import PipelineError, StoreError
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound

HEAD = "dataset.json"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 10**9, 10**17, 10**30, 10**400])
    | st.floats()
    | st.sampled_from(["", "x", "../x", "/dev/zero", "data/5x16x16/x.parquet", "(a|a)*b", "\0"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A dataset of two units, without a manifest: the log alone tells what it holds."""
    made = Store(str(tmp_path / "corpus"))
    sound(made, units=2)
    for path in made.list("manifest"):
        made.delete(path)
    return made


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        yield (*at, key)
        if isinstance(each, (dict, list)):
            yield from places(each, (*at, key))


def changed(data: bytes, place: tuple[Any, ...], value: Any) -> bytes:
    """Return JSON in which one value is another; the checksum is left out, as an editor would."""
    whole = json.loads(data)
    whole.pop("crc32")
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(whole).encode()


def rows(store: Store) -> list[Any]:
    snapshot = pipeline.open(store.uri)
    dataset = TokenDataset(snapshot, columns=["clip_id", "fsq"], batch=4)
    found = [
        (clip_id, cells.tolist())
        for batch in dataset
        for clip_id, cells in zip(batch["clip_id"], batch["fsq"], strict=True)
    ]
    return sorted(found)


def outcome(act: Callable[[Store], Any], store: Store) -> Any:
    try:
        return act(store)
    except PipelineError as error:
        return str(error) if "\n" in str(error) else None


@pytest.mark.parametrize("path", [HEAD, record_path(1)])
@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_gives_the_right_rows_or_one_error(
    store: Store, path: str, data: st.DataObject
) -> None:
    sound_bytes, right = store.read(path), rows(store)
    known = sorted(places(json.loads(sound_bytes)), key=repr)
    place = data.draw(st.sampled_from([each for each in known if each != ("crc32",)]))
    Path(store.locate(path)).write_bytes(changed(sound_bytes, place, data.draw(VALUES)))
    try:
        for act in (verify, lambda s: Tally.of(pipeline.open(s.uri).manifest).total):
            assert not isinstance(outcome(act, store), str)
        found = outcome(rows, store)
        # A record can also name fewer files.
        assert found is None or set(map(repr, found)) <= set(map(repr, right))
    finally:
        Path(store.locate(path)).write_bytes(sound_bytes)


def first_part(record: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = record["units"][0]["parts"][0]
    return part


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "../private/x.parquet"),
        ("path", "/dev/zero"),
        ("path", "data/5x16x16/../../x.parquet"),
        ("path", "data/5x16x16/a\\b.parquet"),
        ("path", "data/5x16x16/a\0.parquet"),
        ("path", "log/1.parquet"),
        ("bucket", "(a|a)*b"),
        ("bucket", ".x16x16"),
        ("rows", 10**17),
        ("rows", -1),
        ("rows", "4"),
        ("bytes", 10**30),
        ("sha256", "z" * 64),
    ],
)
def test_a_part_that_cannot_be_one(store: Store, field: str, value: Any) -> None:
    def read(path: str) -> Any:
        return json.loads(store.read(path))

    record = read(record_path(1))
    record.pop("crc32")
    first_part(record)[field] = value
    store.write(record_path(1), json.dumps(record).encode())
    with pytest.raises(StoreError, match=rf"0001\.json: not a log record: units.0.parts.0.{field}"):
        pipeline.open(store.uri)
    assert [found.kind for found in verify(store).findings] == ["log"]


def test_a_changed_digit_of_a_record_shows(store: Store) -> None:
    for path in (record_path(1), HEAD):
        data = store.read(path)
        store.write(path, data.replace(b"8", b"9", 1))
        with pytest.raises(StoreError, match="it differs from its checksum"):
            pipeline.open(store.uri)
        store.write(path, data)
    assert rows(store)


@pytest.mark.parametrize("path", [HEAD, record_path(1)])
def test_nesting_without_end(store: Store, path: str) -> None:
    store.write(path, b"[" * 200_000)
    with pytest.raises(StoreError, match="recursion limit"):
        pipeline.open(store.uri)


def test_pipes_and_devices_are_not_read(store: Store) -> None:
    part = pipeline.open(store.uri).parts()[0].path
    for path, read in ((part, rows), (record_path(1), rows), (HEAD, rows)):
        data = store.read(path)
        store.delete(path)
        os.mkfifo(store.locate(path))
        with pytest.raises(StoreError, match=rf"{path}: not a regular file; delete it"):
            read(store)
        store.delete(path)
        os.symlink("/dev/zero", store.locate(path))
        with pytest.raises(StoreError, match="not a regular file"):
            read(store)
        store.delete(path)
        store.write(path, data)
    assert rows(store)
