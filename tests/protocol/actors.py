"""The processes of the model: each runs a verb's code, or the driver's, on a store in memory."""

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import pyarrow as pa

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.forgotten import Forgotten, read_forgotten
from pipeline.dataset.log.log_records import numbers_in
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.metadata import open_dataset
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.part_writer import PartWriter, write_quarantine
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.errors import StoreError
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.remaining import subtract
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.operations.publish.publish import publish
from pipeline.operations.retry import retry
from pipeline.operations.shared_file import SharedFile
from pipeline.operations.vacuum import vacuum
from pipeline.quarantine import Quarantined
from pipeline.reading.snapshot import open_snapshot
from pipeline.records import Clip, LooseFile, WorkUnit, unit_sources
from pipeline.sources.planning import cut_runs
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET
from tests.pipeline.units import SCHEMA, SMALL, make_cells, make_clip
from tests.protocol.world import HOUR_S, World

STORE = Store("protocol://root")
FILES = 6
"""Number of loose files; each driver's listing shows some of them."""


def plan_of(tars: int, files: int = FILES) -> list[WorkUnit]:
    """Return the plan of a driver whose listing shows this number of tars and loose files."""
    loose = [LooseFile(uri=f"/in/f{n}.mp4", key=f"f{n}.mp4") for n in range(files)]
    return [
        *(WorkUnit(unit=f"t{n}", tar_uri=f"/in/t{n}.tar") for n in range(tars)),
        *cut_runs(loose, 4),
    ]


KEYS = [f"t{n}.tar" for n in range(3)] + [f"f{n}.mp4" for n in range(FILES)]
"""Keys of all samples: the names of the tars and files, each of which holds one."""


def key_of(source: str) -> str:
    """Return the key of the only sample of a tar or file."""
    return source.rpartition("/")[2]


def _clip(source: str) -> Clip:
    return replace(make_clip(key_of(source), 0), key=key_of(source))


def clip_of(source: str) -> str:
    """Return the only clip of a tar or file."""
    return _clip(source).clip_id


@cache
def _rows(source: str, begun: int) -> pa.Table:
    """Return the rows of a tar or file; the caption tells which result they belong to."""
    clips = [replace(_clip(source), caption=str(begun))]
    return pa.Table.from_batches([clip_rows(clips, make_cells(clips, SMALL), SCHEMA)])


def driver(world: World, draw: random.Random, plan: Sequence[WorkUnit], passes: int = 3) -> None:
    """Do what the plan leaves, in a few passes, as `pipeline.job.driver` does."""
    open_dataset(STORE, DATASET)
    STORE.require_put_if_absent()
    log = CommitLog(STORE, fingerprint=DATASET.fingerprint, run="driver")
    buffer = LogBuffer(log, every_s=0.0)
    for _ in range(passes):
        log.plan()
        units = subtract(plan, log.committed)
        forgotten = read_forgotten(STORE, log.forgets)
        if not units:
            break
        draw.shuffle(units)
        try:
            for unit in units:
                try:
                    is_bad = draw.random() < 0.4
                    begun = world.laws.number
                    buffer.add(_written(unit, forgotten, begun=begun, is_bad=is_bad))
                except StoreError:
                    continue  # the next pass tries it again
                if draw.random() < 0.3:
                    buffer.flush_if_due()
        finally:
            buffer.flush()
    write_manifest(STORE)


def _written(unit: WorkUnit, forgotten: Forgotten, *, begun: int, is_bad: bool) -> UnitRecord:
    sources = unit_sources(unit)
    kept = [source for source in sources if not forgotten.has(unit.unit, key_of(source))]
    with PartWriter(STORE, SCHEMA, unit=unit.unit, bucket=SMALL.name) as writer:
        for source in kept:
            writer.add(_rows(source, begun))
        parts = writer.publish()
    bad = Quarantined(
        unit=unit.unit, key="k", clip_index=None, stage="decode", reason="corrupt", detail="-"
    )
    lost = [bad] if is_bad else []
    rows = len(kept)
    return UnitRecord(
        unit=unit.unit,
        sources=sources,
        parts=parts,
        quarantine=write_quarantine(STORE, unit.unit, lost),
        counts=Counts(
            samples_read=len(sources) + is_bad,
            samples_with_clips=rows,
            samples_quarantined=int(is_bad),
            samples_forgotten=len(sources) - rows,
            clips_seen=rows,
            clips_written=rows,
        ),
        reasons={"corrupt": 1} if lost else {},
        timings={"begun": float(begun)},
        statistics={},
    )


def reader(world: World) -> None:
    """Read one version twice: the same rows, or an error if it is older than a day.

    It holds no sample that was forgotten before it was opened.
    """
    began = world.clock
    forgotten = {clip_of(key) for key in world.laws.forgotten_for_readers}
    snapshot = open_snapshot(STORE.uri)
    parts = [(unit.unit, part) for unit in snapshot.manifest.units() for part in unit.parts]
    try:
        first, second = (list(clip_ids(parts)) for _ in range(2))
    except StoreError as error:
        old = world.clock - began > 24 * HOUR_S or world.vacuum_hours < 24
        if "missing" in str(error) and not old:
            world.laws.broken = f"a reader lost a file within a day: {error}"
        raise
    if seen := sorted(forgotten.intersection(first)):
        world.laws.broken = f"a reader saw {seen}, which were forgotten"
    if len(set(first)) != len(first) or first != second:
        world.laws.broken = f"a reader saw {first}, then {second}"


def forgetter(world: World, keys: Sequence[str]) -> None:
    """Forget samples; from its end on no reader may see them."""
    world.laws.asked_to_forget.update(keys)
    forget(STORE, read_requests(keys, ()))
    world.laws.forgotten_for_readers.update(keys)


def clip_ids(parts: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield the clips of parts."""
    for _, part in parts:
        with open_parquet(STORE, part.path) as parquet:  # type: ignore[attr-defined]
            for rows in unit_rows(parquet, part, ["clip_id"]):  # type: ignore[arg-type]
                yield from rows["clip_id"].to_pylist()


def all_clips(path: str) -> list[str]:
    """Return the clips of a file, also of rows that do not count."""
    with open_parquet(STORE, path) as parquet:
        ids: list[str] = parquet.read(columns=["clip_id"])["clip_id"].to_pylist()
        return ids


class ModelTable:
    """A table format in a few lines; see `pipeline.operations.publish.table.TableFormat`."""

    def __init__(self, store: Store) -> None:
        self.uri = store.locate("_delta_log")
        self.version = max(numbers_in(store, "_delta_log", ".json"), default=None)
        self.paths: frozenset[str] = frozenset()
        if self.version is not None:
            self.paths = frozenset(json.loads(store.read(_version(self.version)))["paths"])

    def commit(self, added: Sequence[SharedFile], removed: Sequence[str], number: int) -> None:
        number = (self.version or 0) + 1
        paths = self.paths.union(file.part.path for file in added).difference(removed)
        data = json.dumps({"token": uuid.uuid4().hex, "paths": sorted(paths)}).encode()
        if STORE.put_or_read(_version(number), data) != data:
            raise StoreError("another commit came first")
        self.version = number


def _version(number: int) -> str:
    return f"_delta_log/{number:020d}.json"


def bodies(world: World, draw: random.Random) -> dict[str, Callable[[], object]]:
    """Return what an actor of each kind does, with choices of its own."""
    plan = plan_of(draw.randint(1, 3), draw.randint(0, FILES))
    small = draw.choice([0.5, 1.0])
    return {
        "driver": lambda: driver(world, draw, plan),
        "retry": lambda: retry(STORE, ["corrupt"]),
        "compact": lambda: compact(
            STORE, part_bytes=draw.choice([9_000, 10**9]), small_share=small
        ),
        "vacuum": lambda: vacuum(STORE, older_than_hours=world.vacuum_hours, delete=True),
        "checkpoint": lambda: write_manifest(STORE),
        "forget": lambda: forgetter(world, draw.sample(KEYS, draw.randint(1, 2))),
        "publish": lambda: publish(STORE, "delta"),
        "reader": lambda: reader(world),
    }
