"""Files and object stores: sources by URI, and the output as a `Store`."""

from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

__all__ = ["Store", "canonical_uri"]
