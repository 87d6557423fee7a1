"""From a row of a dataset back to its models, its source clip, and the frames that it stands for.

All of it follows from `dataset.json`, the log and the row: which settings, which file, which clip.
"""

import random
from bisect import bisect_right
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import pyarrow.parquet as pq
from numpy.typing import NDArray

import vidtok
from pipeline.config import JobConfig, ListConfig
from pipeline.dataset import Dataset
from pipeline.decode import Decoder
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest
from pipeline.models import open_model, weights_digest
from pipeline.records import Clip, ListRows, LooseFile, Part, Sample, UnitRecord, WorkUnit
from pipeline.row_ranges import parse_range
from pipeline.samples import read_samples
from pipeline.source import is_tar
from pipeline.storage import Store

_ANY_VIDEO_MB: Final = 1e6
"""What became tokens was within the job's limit, whatever that was."""


def job_config(dataset: Dataset) -> JobConfig:
    """Return the settings of the run that made a dataset, without its blanked credentials.

    Raises:
        ConfigError: `dataset.json` does not hold them in a form that this release reads.
    """
    values = {**dataset.config}
    try:
        for section in ("source", "output"):
            values[section] = {**values[section], "storage_options": {}}
        return JobConfig.model_validate(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"dataset.json: config: not the settings of a job: {error}") from error


def open_models(dataset: Dataset) -> dict[str, vidtok.Tokenizer]:
    """Return a dataset's models by column, in float32 on the CPU.

    Raises:
        ConfigError: the weights are not there, or not those that made the dataset.
    """
    models = {}
    for spec in job_config(dataset).tokenizers:
        models[spec.name] = open_model(spec)
        made_with = dataset.identity["tokenizers"][spec.name]["weights"]
        if (found := weights_digest(models[spec.name])) != made_with:
            raise ConfigError(
                f"tokenizer {spec.name}: weights = {spec.weights}: digest {found}, the dataset was"
                f" made with {made_with}; bring those back to the place that dataset.json names"
            )
    return models


def source_clips(
    decoder: Decoder,
    unit: str,
    sources: Sequence[str],
    key: str,
    wanted: Collection[int],
    lists: ListConfig,
) -> Iterator[tuple[Clip, NDArray[Any]]]:
    """Yield clips of one sample, decoded from its source again.

    Args:
        decoder: with the dataset's `clip_rules`.
        unit: of the rows.
        sources: URIs of the unit's record.
        key: of the rows.
        wanted: clip indices.
        lists: how the dataset's lists are read.

    Yields:
        A clip and its frames `[T, H, W, 3]`; none for an index that the source does not hold.

    Raises:
        QuarantineError: the video is broken now.
        StoreError: the source cannot be read.
    """
    left = set(wanted)
    sample = source_sample(unit, sources, key, lists)
    for clip, frames in decoder.decode(sample, unit) if sample is not None else ():
        if not left:
            break  # not at once after the last: a video that ends there spares the child
        if clip.clip_index in left and frames is not None:
            left.remove(clip.clip_index)
            yield clip, frames


def source_sample(unit: str, sources: Sequence[str], key: str, lists: ListConfig) -> Sample | None:
    """Return the sample of a key from its source, None if it is not there; as `source_clips`."""
    samples = read_samples(
        _work_unit(unit, sources, key), max_video_mb=_ANY_VIDEO_MB, lists=lists, images=True
    )
    for sample in samples:
        if isinstance(sample, Sample) and sample.key == key:
            return sample
    return None


def _work_unit(unit: str, sources: Sequence[str], key: str) -> WorkUnit:
    """Return the unit's tar or rows, or of its loose files the one that has the key."""
    if is_tar(sources[0]):
        return WorkUnit(unit=unit, tar_uri=sources[0])
    if (rows := parse_range(sources[0])) is not None:
        uri, start, stop = rows
        return WorkUnit(unit=unit, rows=ListRows(uri=uri, start=start, stop=stop))
    for uri in sources:
        folder = uri.removesuffix(key)
        # A key may end as another does; but all keys of a unit are below one folder.
        if folder.endswith("/") and all(other.startswith(folder) for other in sources):
            return WorkUnit(unit=unit, files=(LooseFile(key=key, uri=uri),))
    return WorkUnit(unit=unit)


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """Where one row stands."""

    unit: UnitRecord
    part: Part
    n: int
    """Of the row among those that its unit has in the part, from 0."""


def draw_rows(
    manifest: Manifest, count: int, seed: int, *, leave_out: Container[str] = frozenset()
) -> list[DrawnRow]:
    """Draw rows, all alike, without reading any; in the order of the draw.

    Args:
        manifest: what counts.
        count: how many, or all if there are fewer.
        seed: of the draw.
        leave_out: paths of parts from which none is drawn.
    """
    total = sum(part.rows for part in manifest.parts() if part.path not in leave_out)
    drawn = random.Random(seed).sample(range(total), min(count, total))
    ahead = sorted(drawn, reverse=True)
    found: dict[int, DrawnRow] = {}
    start = 0
    for unit in manifest.units() if ahead else ():
        for part in unit.parts:
            if part.path not in leave_out:
                while ahead and ahead[-1] < start + part.rows:
                    place = ahead.pop()
                    found[place] = DrawnRow(unit, part, place - start)
                start += part.rows
    return [found[place] for place in drawn]


def read_row(store: Store, drawn: DrawnRow, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a row's columns, None: all; reads one row group.

    Raises:
        FileNotFoundError: its part is missing.
        pyarrow.ArrowException, OSError: its part is damaged.
        StoreError: the store refuses.
    """
    with store.open(drawn.part.path) as file:
        parquet = pq.ParquetFile(file)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        ends = list(accumulate(sizes))
        n = drawn.n + (drawn.part.place.first_row if drawn.part.place else 0)
        group = bisect_right(ends, n)
        within = n - (ends[group] - sizes[group])
        rows = parquet.read_row_group(group, columns=columns)
        row: dict[str, Any] = rows.slice(within, 1).to_pylist()[0]
        return row
