"""Whatever happens while parts are merged, and wherever it is killed, every row counts once."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.operations.compact
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.records import Part, Reopened
from pipeline.operations.compact import Compaction, compact
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.operations.compacted import content, globbed, ids, named, open_log, redo
from tests.pipeline.units import deliver


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen between the first merged part and its record."""
    merge = pipeline.operations.compact.merge_files

    def merge_then_act(*arguments: Any) -> Part:
        monkeypatch.setattr(pipeline.operations.compact, "merge_files", merge)
        part = merge(*arguments)
        act()
        return part

    monkeypatch.setattr(pipeline.operations.compact, "merge_files", merge_then_act)


class TestMeanwhile:
    def test_another_unit_is_committed(self, local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        sound(local)
        late = commit(local, deliver("late"))
        meanwhile(monkeypatch, lambda: open_log(local).append([late]))
        assert compact(local).changed_meanwhile == 0
        assert list(content(local)) == ["u-0", "u-1", "u-2", "late"]
        assert verify(local).findings == []

    def test_a_unit_is_done_again(self, local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        sound(local)
        meanwhile(monkeypatch, lambda: redo(local, "u-1", lost=[1]))
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert "k0/1" not in "".join(clip for clip in ids(local) if clip.startswith("u-1/"))
        assert verify(local).findings == []
        assert compact(local).files_after == 2
        assert verify(local).findings == []

    def test_a_unit_is_reopened(self, local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        records = sound(local)
        again = Reopened(unit="u-1", sources=records[1].sources)
        meanwhile(monkeypatch, lambda: open_log(local).reopen([again]))
        assert compact(local).changed_meanwhile == 2

    def test_another_compaction_is_first(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        before = content(local)
        meanwhile(monkeypatch, lambda: compact(local))
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert "run the command again" in result.lines()[0]
        assert content(local) == before
        assert verify(local).findings == []

    def test_another_compaction_is_first_and_the_old_parts_are_gone(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        before = content(local)
        merge = pipeline.operations.compact.merge_files

        def act_then_merge(*arguments: Any) -> Part:
            monkeypatch.setattr(pipeline.operations.compact, "merge_files", merge)
            compact(local)
            vacuum(local, older_than_hours=0, delete=True)
            return merge(*arguments)

        monkeypatch.setattr(pipeline.operations.compact, "merge_files", act_then_merge)
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (0, 2)
        assert content(local) == before

    def test_vacuum_takes_the_merged_part(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound(local)
        before = content(local)
        meanwhile(monkeypatch, lambda: vacuum(local, older_than_hours=0, delete=True))
        result = compact(local)
        assert (result.files_after, result.changed_meanwhile) == (1, 1)
        assert content(local) == before
        assert verify(local).findings == []
        assert verify(local).orphaned == [
            path for path in verify(local).orphaned if "9x16x32" in path
        ]

    def test_vacuum_comes_when_the_record_stands(
        self, local: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It listed the merged part, and read the manifest, before the record was put."""
        sound(local)
        before = content(local)
        listed = pipeline.operations.vacuum.read_manifest  # type: ignore[attr-defined]
        old: list[Any] = []

        def stale(store: Store) -> Any:
            return old[0]

        meanwhile(monkeypatch, lambda: old.append(listed(local)))
        log = CommitLog
        made: list[CommitLog] = []

        def early(*arguments: Any, **options: Any) -> CommitLog:
            return made[0] if made else log(*arguments, **options)

        before_log = open_log(local)
        compact(local)
        made.append(before_log)
        monkeypatch.setattr("pipeline.operations.vacuum.read_manifest", stale)
        monkeypatch.setattr("pipeline.operations.vacuum.CommitLog", early)
        result = vacuum(local, older_than_hours=0, delete=True)
        assert len(result.young) == 2
        assert content(local) == before

    def test_two_at_once_and_a_job(self, store: Store) -> None:
        sound(store, units=4)
        late = [commit(store, deliver(f"late-{n}")) for n in range(4)]
        before = content(store)
        start = threading.Barrier(3)

        def work(act: Callable[[], object]) -> object:
            start.wait()
            return act()

        def job() -> None:
            log = open_log(store)
            for record in late:
                log.append([record])

        with ThreadPoolExecutor(3) as pool:
            acts: list[Callable[[], object]] = [lambda: compact(store, part_bytes=1 << 15)] * 2
            results = list(pool.map(work, [*acts, job]))
        merged = [result for result in results if isinstance(result, Compaction)]
        assert len(merged) == 2
        now = content(store)
        assert {unit: now[unit] for unit in before} == before
        assert len(now) == 8
        assert verify(store).findings == []


KILLED = """
import os, signal, sys
from pipeline.operations.compact import compact
from pipeline.storage.store import StagedFile, Store

left = int(sys.argv[2])

def tick():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(owner, name):
    act = getattr(owner, name)
    def wrapped(self, path, *arguments):
        if path.startswith(("data/", "log/", "manifest/")):
            tick()
        result = act(self, path, *arguments)
        if path.startswith(("data/", "log/", "manifest/")):
            tick()
        return result
    setattr(owner, name, wrapped)

dying(StagedFile, "publish")
dying(Store, "put_or_read")
compact(Store(sys.argv[1]))
"""


def killed(store: Store, point: int) -> int:
    """Compact in a process that is killed before or after one of its writes; return its code."""
    command = [sys.executable, "-c", KILLED, store.uri, str(point)]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("point", range(6), ids=lambda n: ("before", "after")[n % 2] + f"-{n // 2}")
def test_killed_at_any_point(local: Store, point: int) -> None:
    """Before or after the part, the record, the manifest."""
    write_log(local, [commit(local, deliver(f"u-{n}", batches=(2,))) for n in range(3)])
    before = content(local)
    assert killed(local, point) == -signal.SIGKILL
    assert content(local) == before
    assert verify(local).findings == []
    assert compact(local).files_after == (1 if point < 3 else 0)
    assert content(local) == before
    assert len(named(local)) == 1
    vacuum(local, older_than_hours=0, delete=True)
    assert globbed(local) == ids(local)
    assert verify(local).orphaned == []


def test_killed_at_no_other_point(local: Store) -> None:
    write_log(local, [commit(local, deliver(f"u-{n}", batches=(2,))) for n in range(3)])
    assert killed(local, 6) == 0


acts = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 9), st.integers(0, 9)),
        st.tuples(st.just("compact"), st.sampled_from([1, 20_000, 1 << 20]), st.integers(0, 4)),
        st.tuples(st.just("redo"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("vacuum"), st.just(0), st.just(0)),
        st.tuples(st.just("manifest"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(acts)
@settings(max_examples=12)
def test_whatever_comes_after_whatever(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, int]]
) -> None:
    store = Store(str(tmp_path_factory.mktemp("corpus")))
    log = write_log(store, [])
    rows: dict[str, list[str]] = {}
    for n, (act, one, two) in enumerate(acts):
        if act == "commit":
            delivery = deliver(f"u-{n}", batches=(one, two) if two else (one,))
            assert log.append([commit(store, delivery, max_part_bytes=5000)]).ours
            rows[f"u-{n}"] = [f"u-{n}/k{i // 2}/{i % 2}" for i in range(one + two)]
        elif act == "compact":
            assert compact(store, part_bytes=one, small_share=two / 4).changed_meanwhile == 0
        elif act == "redo" and rows:
            unit = sorted(rows)[one % len(rows)]
            redo(store, unit, batches=(one + 1, two + 1))
            rows[unit] = [f"{unit}/k{i // 2}/{i % 2}" for i in range(one + two + 2)]
        elif act == "vacuum":
            vacuum(store, older_than_hours=0, delete=True)
        elif act == "manifest":
            write_manifest(store)
    assert ids(store) == sorted(clip for clips in rows.values() for clip in clips)
    assert verify(store).findings == []
    compact(store)
    vacuum(store, older_than_hours=0, delete=True)
    assert globbed(store) == ids(store)
    assert verify(store).findings == []
