"""What is left to do: the plan, less what the commit log covers.

Files and rows that a committed unit was read from are done, however a later plan cuts them: a
folder that gains files and a list that grows are planned anew, and nothing is tokenized twice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from pipeline.dataset.committed import Committed, RowRanges
from pipeline.errors import ConfigError
from pipeline.records import ListRows, LooseFile, WorkUnit, parse_range, unit_sources
from pipeline.sources.planning import cut_runs, digest, rows_unit


def subtract(
    units: Iterable[WorkUnit], committed: Committed, *, files_per_unit: int = 16
) -> list[WorkUnit]:
    """Return what is left to do.

    Units in the log are done. Out of the other runs of loose files, those files are taken that
    committed units cover already; what is left of such runs is cut anew, so that files which
    trickle into a large folder do not become a unit each. A unit that is to be done again is the
    same run as before, however the plan cuts its files; it waits if the plan lacks one of them.
    Rows of lists likewise, but that what is left of a run stays apart.
    """
    left: list[WorkUnit] = []
    rows: list[WorkUnit] = []
    rest: dict[str, list[LooseFile]] = {}
    again: dict[str, LooseFile | None] = {
        uri: None for sources in committed.reopened.values() for uri in sources
    }
    for unit in units:
        if unit.unit in committed.units or unit.tar_uri in committed.sources:
            continue
        if unit.rows is not None:
            rows.append(unit)
            continue
        again.update((file.uri, file) for file in unit.files if file.uri in again)
        files = [
            file
            for file in unit.files
            if file.uri not in committed.sources and file.uri not in again
        ]
        if len(files) == len(unit.files):
            left.append(unit)
        for file in files if len(files) < len(unit.files) else ():
            # Runs of two sources stay apart: only within one are keys unique.
            rest.setdefault(file.uri.removesuffix(file.key), []).append(file)
    for files in rest.values():
        left += cut_runs(files, files_per_unit)
    for name, sources in committed.reopened.items():
        run = tuple(known for uri in sources if (known := again[uri]) is not None)
        if len(run) == len(sources):
            left.append(WorkUnit(unit=name, files=run))
    return left + list(_rows_left(rows, committed))


def _rows_left(units: Iterable[WorkUnit], committed: Committed) -> Iterator[WorkUnit]:
    planned = RowRanges()
    again = RowRanges(chain.from_iterable(committed.reopened.values()))
    whole: set[str] = set()
    for unit in units:
        assert unit.rows is not None
        planned.add(unit_sources(unit))
        if unit.unit in committed.reopened:
            whole.add(unit.unit)
            yield unit
            continue
        rows = unit.rows
        for start, stop in committed.rows.gaps(rows.uri, rows.start, rows.stop):
            for begin, end in again.gaps(rows.uri, start, stop):
                yield rows_unit(replace(rows, start=begin, stop=end))
    for name, sources in committed.reopened.items():
        for uri, start, stop in filter(None, map(parse_range, sources)):
            if name not in whole and not list(planned.gaps(uri, start, stop)):
                yield WorkUnit(unit=name, rows=ListRows(uri=uri, start=start, stop=stop))


def take_slice(units: Iterable[WorkUnit], index: int, of: int) -> list[WorkUnit]:
    """Return this driver's share of a plan that `of` drivers divide; `index` counts from 0.

    By a hash of the unit's id: a unit keeps its slice when others come or go.
    """
    if not 0 <= index < of:
        raise ConfigError(f"slice = {index}/{of}: takes 0/{of} to {of - 1}/{of}")
    return [unit for unit in units if int(digest([unit.unit]), 16) % of == index]
