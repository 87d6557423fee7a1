"""The format of a dataset: parts, log, manifest, statistics."""
