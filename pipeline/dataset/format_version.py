"""The version of the format on disk, and the one check of it.

Parts, log records, manifests and `dataset.json` carry the same version.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from pipeline.errors import ConfigError, StoreError
from pipeline.records import from_json

FORMAT_VERSION: Final = 1
"""Version of parts, log records, manifests and `dataset.json`; readers refuse any other."""


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


def parse_versioned(kind: type[Record], data: bytes, where: str, what: str) -> Record:
    """Return a record from its JSON, which has a field `format_version`.

    Args:
        kind: class of the record.
        data: the JSON.
        where: URI of the file, for errors.
        what: noun phrase for the record, for errors: `a log record`.

    Raises:
        ConfigError: the record is of another format version.
        StoreError: the JSON is damaged, or is not such a record.
    """
    try:
        require_version(from_json(_Versioned, data).format_version, where)
        return from_json(kind, data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        detail = f"{place}: {first['msg']}" if place else first["msg"]
        raise StoreError(f"{where}: not {what}: {detail}") from error
