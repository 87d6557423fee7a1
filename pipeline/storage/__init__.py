"""Files and object stores: sources by URI, and the output as a `Store`."""

from pipeline.storage.files import (
    canonical_uri,
    file_size,
    find_files,
    is_local,
    list_folder,
    open_file,
    read_file,
)
from pipeline.storage.store import StagedFile, Store, StoredFile

__all__ = [
    "StagedFile",
    "Store",
    "StoredFile",
    "canonical_uri",
    "file_size",
    "find_files",
    "is_local",
    "list_folder",
    "open_file",
    "read_file",
]
