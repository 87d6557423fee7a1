"""What other writers do while samples are forgotten, and a command that was killed."""

from typing import Any

import pytest

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.records import Reopened
from pipeline.dataset.tally import Tally
from pipeline.errors import StoreError
from pipeline.job.remaining import subtract
from pipeline.operations.compact import compact
from pipeline.operations.retry import retry
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit
from tests.pipeline.operations.compacted import open_log
from tests.pipeline.operations.forget.forgetting import (
    GONE,
    commit_keys,
    deliver_keys,
    erased,
    files_with,
    forget_keys,
    ids,
    keys_of,
    kinds,
    made,
    tar_unit,
)


def test_a_unit_that_was_reopened(local: Store) -> None:
    """Its forgotten rows do not wait for the next run."""
    made(local)
    retry(local, ["corrupt"])
    forget_keys(local, GONE)
    erased(local)
    assert files_with(local, GONE) == []
    assert read_manifest(local).reopened == {"a"}
    log = open_log(local)
    again = deliver_keys(tar_unit("a"), [k for k in keys_of("a") if k != GONE], left_out=1)
    assert log.append([commit(local, again)]).ours == ("a",)
    assert verify(local).findings == []
    assert Tally.of(read_manifest(local)).problems == []


def test_a_unit_in_flight_is_done_again(local: Store) -> None:
    made(local)
    log = open_log(local)
    flying = commit_keys(local, "c")
    clean = commit(local, deliver_keys(tar_unit("d"), keys_of("d")))
    forget_keys(local, keys_of("c")[0])
    outcome = log.append([flying, clean])
    assert (outcome.forgotten, outcome.ours) == (("c",), ("d",))
    assert not [clip for clip in ids(local) if "private-c" in clip]
    assert "remains" in kinds(local), "its part is orphaned"
    log.plan()
    assert [unit.unit for unit in subtract([tar_unit("c")], log.committed)] == ["c"]
    again = commit(local, deliver_keys(tar_unit("c"), keys_of("c")[1:], left_out=1))
    assert log.append([again]).ours == ("c",)
    erased(local)
    assert files_with(local, keys_of("c")[0]) == []
    assert kinds(local) == []


def test_an_answer_to_retry_in_flight(local: Store) -> None:
    made(local)
    log = open_log(local)
    log.reopen([Reopened(unit="a", sources=("/in/a.tar",))])
    log.plan()
    flying = commit_keys(local, "a")
    forget_keys(local, GONE)
    outcome = log.append([flying])
    assert (outcome.ours, outcome.lost) == ((), ("a",))
    assert not [clip for clip in ids(local) if GONE in clip]


def test_a_compaction_that_began_before(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(local)
    move = CommitLog.move

    def forget_first(log: CommitLog, *arguments: Any) -> bool:
        monkeypatch.undo()
        forget_keys(local, GONE)
        return move(log, *arguments)

    monkeypatch.setattr(CommitLog, "move", forget_first)
    assert compact(local).changed_meanwhile == 2, "one of each bucket"
    assert not [clip for clip in ids(local) if GONE in clip]
    erased(local)
    assert files_with(local, GONE) == []


def test_a_command_that_was_killed_is_repeated(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(local)

    def killed(*_: Any) -> None:
        raise StoreError("killed")

    monkeypatch.setattr(CommitLog, "trim", killed)
    with pytest.raises(StoreError, match="killed"):
        forget_keys(local, GONE)
    monkeypatch.undo()
    assert kinds(local) == ["forgotten"]
    result = forget_keys(local, GONE)
    assert (result.new, result.clips) == (0, 2)
    assert kinds(local) == ["remains"]


def test_units_that_others_change_meanwhile(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(local)
    trim = CommitLog.trim

    def compact_first(log: CommitLog, *arguments: Any) -> tuple[str, ...]:
        monkeypatch.undo()
        compact(local)
        return trim(log, *arguments)

    monkeypatch.setattr(CommitLog, "trim", compact_first)
    assert forget_keys(local, GONE).clips == 2
    assert kinds(local) == ["remains"]
    erased(local)
    assert files_with(local, GONE) == []
