"""Files and object stores: sources by URI, and the store that a dataset lives in."""

from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

__all__ = ["Store", "canonical_uri"]
