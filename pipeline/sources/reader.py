"""From one work unit to its samples, in an order that follows from the input alone.

Every sample of the unit that is not excluded comes out exactly once, as a `Sample` or as a
`Quarantined` of stage `read`, and counts as one sample read. Damaged data is recorded in the
quarantine. A failing store raises `StoreError` instead, so the unit is retried and expired
credentials never quarantine a sample. The last attempt reads one by one: there a file or row that
cannot be read is `given_up`, and the caller decides whether it alone is to blame.
"""

from collections.abc import Iterator, Sequence

from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.quarantine import Quarantined, QuarantineError, giving_up
from pipeline.records import Sample, WorkUnit
from pipeline.sources.list_rows import list_samples
from pipeline.sources.loose_files import file_sample
from pipeline.sources.tar_samples import tar_samples


class SampleReader:
    """Reads the samples of work units. It holds no open file between units.

    Args:
        source: how the units' sources are read.
        images: whether a sample may be an image.
        tracks: tracks that are read from sidecars, or from columns of lists.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        images: bool = False,
        tracks: Sequence[TrackConfig] = (),
    ) -> None:
        self._source = source
        self._tracks = tracks
        self._images = images

    def read(self, unit: WorkUnit, *, one_by_one: bool = False) -> Iterator[Sample | Quarantined]:
        """Yield the samples of a unit that are not excluded; at most two videos are in memory.

        Args:
            unit: the unit.
            one_by_one: whether an error of one file or row makes it `given_up`.

        Raises:
            StoreError: the store failed, or the tar or list is missing; retry the unit later.
        """
        samples = self._read(unit, one_by_one)
        return (sample for sample in samples if not self._source.excludes(sample.key))

    def _read(self, unit: WorkUnit, one_by_one: bool) -> Iterator[Sample | Quarantined]:
        if unit.tar_uri is not None:
            yield from tar_samples(
                unit.unit, unit.tar_uri, self._source, self._images, self._tracks, unit.beside
            )
        for file in unit.files:
            try:
                with giving_up("read", active=one_by_one):
                    sample = file_sample(file, self._source, self._tracks)
                yield sample
            except QuarantineError as error:
                yield Quarantined.of(error, unit=unit.unit, key=file.key)
        if unit.rows is not None:
            yield from list_samples(
                unit.unit, unit.rows, self._source, self._images, one_by_one, self._tracks
            )
