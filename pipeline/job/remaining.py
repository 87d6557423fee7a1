"""The remaining units: the plan without what the commit log covers.

Files and rows that a committed unit was read from are done, however a later plan cuts them. So
nothing is tokenized twice when a folder gains files or a list grows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from pipeline.dataset.log.committed import Committed, RowRanges
from pipeline.records import ListRows, LooseFile, WorkUnit, parse_range, unit_sources
from pipeline.sources.planning import cut_runs, digest, rows_unit


def subtract(
    units: Iterable[WorkUnit], committed: Committed, *, files_per_unit: int | None = None
) -> list[WorkUnit]:
    """Return the remaining units.

    Units in the log are done, and so is what is forgotten. From each other run of loose files, the
    files of committed units are removed. What remains of such runs is cut again, so that files
    which arrive one by one in a large folder do not become a unit each. A reopened unit is the same
    run as when it was committed, however the plan cuts its files; it waits while the plan lacks one
    of them. The same holds for rows of lists, but remainders of two runs stay separate units.

    Args:
        units: the plan.
        committed: what the log covers.
        files_per_unit: maximum number of files of a run that is cut again, as `cut_runs` takes it.
    """
    remaining: list[WorkUnit] = []
    rows: list[WorkUnit] = []
    rest: dict[str, list[LooseFile]] = {}
    reopened: dict[str, LooseFile | None] = {
        uri: None for sources in committed.reopened.values() for uri in sources
    }
    for unit in units:
        if unit.unit in committed.units or unit.tar_uri in committed.sources:
            continue
        if unit.tar_uri and _is_forgotten(unit.tar_uri, unit, committed):
            continue
        if unit.rows is not None:
            rows.append(unit)
            continue
        reopened.update((file.uri, file) for file in unit.files if file.uri in reopened)
        files = [
            file
            for file in unit.files
            if file.uri not in committed.sources and file.uri not in reopened
            if not committed.forgotten.has_file(unit.unit, file)
        ]
        if len(files) == len(unit.files):
            remaining.append(unit)
        for file in files if len(files) < len(unit.files) else ():
            # Keys are unique only within a source, so a run holds files of one.
            rest.setdefault(file.uri.removesuffix(file.key), []).append(file)
    for files in rest.values():
        remaining += cut_runs(files, files_per_unit)
    for name, sources in committed.reopened.items():
        run = tuple(known for uri in sources if (known := reopened[uri]) is not None)
        if len(run) == len(sources):
            remaining.append(WorkUnit(unit=name, files=run))
    return remaining + list(_remaining_rows(rows, committed))


def is_done(unit: WorkUnit, committed: Committed) -> bool:
    """Return whether all sources of a planned unit are committed, or forgotten."""
    forgotten = committed.forgotten
    gone = {file.uri for file in unit.files if forgotten.has_file(unit.unit, file)}
    left = (source for source in unit_sources(unit) if source not in committed.sources)
    return all(source in gone or forgotten.has_source(source) for source in left)


def _is_forgotten(source: str, unit: WorkUnit, committed: Committed) -> bool:
    """Return whether a source need not be planned; a reopened unit is done again without it."""
    return unit.unit not in committed.reopened and committed.forgotten.has_source(source)


def _remaining_rows(units: Iterable[WorkUnit], committed: Committed) -> Iterator[WorkUnit]:
    planned = RowRanges()
    reopened = RowRanges(chain.from_iterable(committed.reopened.values()))
    whole: set[str] = set()
    for unit in units:
        assert unit.rows is not None
        planned.add(unit_sources(unit))
        if unit.unit in committed.reopened:
            whole.add(unit.unit)
            yield unit
            continue
        rows = unit.rows
        if _is_forgotten(rows.uri, unit, committed):
            continue
        for start, stop in committed.rows.gaps(rows.uri, rows.start, rows.stop):
            for begin, end in reopened.gaps(rows.uri, start, stop):
                yield rows_unit(replace(rows, start=begin, stop=end))
    for name, sources in committed.reopened.items():
        for uri, start, stop in filter(None, map(parse_range, sources)):
            if name not in whole and not list(planned.gaps(uri, start, stop)):
                yield WorkUnit(unit=name, rows=ListRows(uri=uri, start=start, stop=stop))


def take_slice(units: Iterable[WorkUnit], index: int, of: int) -> list[WorkUnit]:
    """Return this driver's share of a plan that `of` drivers divide; `index` counts from 0.

    A hash of the unit's name decides, so a unit keeps its slice when others appear or disappear.
    `pipeline.job.config_checks` refuses a slice that does not exist.
    """
    return [unit for unit in units if int(digest([unit.unit]), 16) % of == index]
