"""The version of the format on disk, the one check of it, and the checksum of what is JSON.

Parts, log records, manifests and `dataset.json` carry the same version. The JSON of log records and
of `dataset.json` ends in a checksum of all that is before it, so that a changed digit shows.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from pipeline.errors import ConfigError, DamagedFile
from pipeline.records import from_json, to_json

FORMAT_VERSION: Final = 1
"""Version of parts, log records, manifests and `dataset.json`; readers refuse any other."""


RESTORE: Final = "restore it from a copy"
"""What to do about a damaged file, unless another one holds the same."""


_CHECKSUM: Final = re.compile(rb',"crc32":"([0-9a-f]{8})"}\s*')


@dataclass(frozen=True, slots=True)
class _Versioned:
    format_version: int


def require_version(found: object, where: str) -> None:
    """Refuse a file of another format version.

    Raises:
        ConfigError: `found` is not `FORMAT_VERSION`.
    """
    if found != FORMAT_VERSION:
        raise ConfigError(
            f"{where}: format version {found}: this release reads version {FORMAT_VERSION} only;"
            " open the dataset with the release that wrote it, or tokenize into a new output"
        )


Record = TypeVar("Record")


def versioned_json(record: object) -> bytes:
    """Return a record as JSON that ends in its checksum; see `parse_versioned`."""
    data = to_json(record)
    return b'%s,"crc32":"%08x"}' % (data[:-1], zlib.crc32(data[:-1]))


def parse_versioned(
    kind: type[Record], data: bytes, where: str, what: str, fix: str = RESTORE
) -> Record:
    """Return a record from its JSON, which has a field `format_version`.

    JSON without a checksum, which a person wrote, is taken as it is.

    Args:
        kind: class of the record.
        data: the JSON.
        where: URI of the file, for errors.
        what: noun phrase for the record, for errors: `a log record`.
        fix: what to do about damage, for errors.

    Raises:
        ConfigError: the record is of another format version.
        DamagedFile: the JSON is damaged, or is not such a record.
    """
    checksum = _CHECKSUM.search(data, max(0, len(data) - 32))
    if checksum and int(checksum[1], 16) != zlib.crc32(data[: checksum.start()]):
        raise DamagedFile(f"{where}: not {what}: it differs from its checksum; {fix}")
    with damage_refused(where, what, fix):
        require_version(from_json(_Versioned, data).format_version, where)
        return from_json(kind, data)


@contextmanager
def damage_refused(where: str, what: str, fix: str = RESTORE) -> Iterator[None]:
    """Raise `DamagedFile` for what does not have the types of a record.

    Args:
        where: URI of the file.
        what: noun phrase for the record: `a log record`.
        fix: what to do about it.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        detail = f"{place}: {first['msg']}" if place else first["msg"]
        raise DamagedFile(f"{where}: not {what}: {detail[:500]}; {fix}") from error
