"""The format of a dataset: parts, commit log, manifest, statistics.

    clips, cells ─► PartWriter ─► UnitRecord ─► CommitLog ─► Manifest ─► Tally, Statistics

`docs/format.md` specifies what is stored.
"""
