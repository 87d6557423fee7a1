"""Files of the parts that count, with the units that have rows in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.records import Part


@dataclass(slots=True)
class SharedFile:
    """A file of the dataset; if it is a merged part, several units share it."""

    part: Part
    """Part of the first unit; path, bucket, bytes and digest are those of the file."""
    shares: list[tuple[str, Part]] = field(default_factory=list)
    """Units and their parts, in the order of commits."""

    @property
    def units(self) -> Sequence[str]:
        """Ids of the units that have rows in the file."""
        return [unit for unit, _ in self.shares]

    @property
    def rows(self) -> int:
        """Number of rows that belong to a unit."""
        return sum(part.rows for _, part in self.shares)

    @property
    def rows_left_out(self) -> int:
        """Number of other rows: their unit was processed again, or they were forgotten."""
        place = self.part.place
        return place.of_rows - self.rows if place else 0


def shared_files(manifest: Manifest) -> list[SharedFile]:
    """Return the files of the parts that count, each once, in the order of commits."""
    files: dict[str, SharedFile] = {}
    for unit in manifest.units():
        for part in unit.parts:
            file = files.setdefault(part.path, SharedFile(part))
            file.shares.append((unit.unit, part))
    return list(files.values())
