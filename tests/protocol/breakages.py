"""Deliberate breakages of the pipeline's code, each of which breaks a law of the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.committed import Committed
from pipeline.dataset.log.forgotten import ForgottenSince
from pipeline.dataset.records import PartsMoved, RowsForgotten, UnitRecord
from pipeline.storage.store import Store

_move, _trim = CommitLog.move, CommitLog.trim


def _drop(log: CommitLog, paths: Iterable[str]) -> set[str]:
    return set(paths)


def _move_blindly(log: CommitLog, units: Sequence[PartsMoved], known: Mapping[str, int]) -> bool:
    return _move(log, units, dict.fromkeys(known, 10**9))


def _trim_blindly(
    log: CommitLog, units: Sequence[RowsForgotten], known: Mapping[str, int]
) -> tuple[str, ...]:
    return _trim(log, units, dict.fromkeys(known, 10**9))


def _covers(committed: Committed, record: UnitRecord) -> bool:
    return record.unit in committed.units


def _of(owner: type, name: str, broken: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, broken)


BREAKAGES: Final = {
    "vacuum-without-record": _of(CommitLog, "drop", _drop),
    "name-dropped-files": _of(CommitLog, "may_name", lambda log, paths: True),
    "stale-answers": _of(CommitLog, "is_stale", lambda log, unit: False),
    "move-blindly": _of(CommitLog, "move", _move_blindly),
    "table-without-record": _of(CommitLog, "announce", lambda log, table, paths: True),
    "forget-ignored": _of(ForgottenSince, "is_in", lambda since, unit: False),
    "trim-blindly": _of(CommitLog, "trim", _trim_blindly),
    "put-overwrites": _of(Store, "put_if_absent", Store.write),
    "sources-unchecked": _of(Committed, "covers", _covers),
}
"""Ways to break the code, by name."""
