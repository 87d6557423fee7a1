"""Where videos come from: one section for the corpus job, training and evaluation."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from pydantic import Field, PositiveInt

from pipeline.config.loading import Fault
from pipeline.config.section import Section, Strings

_PROTOCOLS: Final = ["file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf"]


class ListConfig(Section):
    """Columns and units of video lists (Parquet, CSV, TSV or JSON Lines)."""

    video: str = "video"
    """Name of the column with the video or image. A cell holds a URI, a path, the bytes (Parquet
    only), or `{bytes, path}` as written by Hugging Face `datasets`."""
    root: str | None = None
    """Folder or prefix that relative paths start from. null: the folder of the list."""
    key: str | None = None
    """Name of the column with the sample's key, which must be unique in the list. null: the row
    number, from 0."""
    caption: str | None = None
    """Name of the column with the caption. null: no captions."""
    start_s: str | None = None
    """Name of the column with the second at which a sample starts in its video. null, here or in a
    row: the start of the video."""
    end_s: str | None = None
    """Name of the column with the second at which a sample ends in its video. null, here or in a
    row: the end of the video."""
    meta: list[str] | None = None
    """Names of the columns that are copied to `meta`. null: all columns."""
    rows_per_unit: PositiveInt = 128
    """Number of rows in one work unit. In a Parquet list that holds the video bytes, a unit also
    ends at the end of each row group."""


class VideoSource(Section):
    """Videos and images to read."""

    uri: Annotated[Strings, Field(min_length=1)]
    """URIs or paths of tars, files, folders, globs or `{000..999}` patterns; one or several. A
    pattern that ends in `.parquet`, `.csv`, `.tsv` or `.jsonl` names lists of videos, which only
    the corpus job reads."""
    exclude: Strings = Field(default=[])
    """Glob patterns of files and samples to leave out. A pattern is compared with the full URI of a
    file and with the key of a sample; `*` also matches `/`."""
    lists: ListConfig = ListConfig()
    """Columns and units of the lists in `uri`. Corpus job only."""
    files_per_unit: PositiveInt = 16
    """Number of loose files in one work unit, which is retried and committed together. Corpus job
    only."""
    max_video_mb: PositiveInt = 2048
    """Maximum size of a video in MB (10^6 bytes). A larger video is not read, because each video is
    held in memory whole. It is reported as too large."""
    max_meta_kb: PositiveInt = 64
    """Maximum size of a sample's caption, and of its `meta`, in kB (10^3 bytes): every clip has a
    copy. What does not fit is left out, largest first, and named in `meta` under `_problems`."""
    protocols: list[str] = Field(default=_PROTOCOLS)
    """Protocols of URIs that are read, in `uri` and in the rows of lists; `file` for local paths.
    Any other is refused, as is a chain of file systems (`zip://a.mp4::s3://bucket/b.zip`)."""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec, such as endpoint and credentials. They are never written to disk."""

    def excludes(self, *names: str) -> bool:
        """Return whether a pattern of `exclude` matches one of a sample's names.

        Args:
            names: full URI of a file, key of a sample, or both.
        """
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.exclude)


_JOB_ONLY: Final = ("lists", "files_per_unit")


def job_only_faults(source: VideoSource, field: str) -> Iterator[Fault]:
    """Yield a fault for each setting that only the corpus job reads."""
    for name in _JOB_ONLY:
        if getattr(source, name) != VideoSource.model_fields[name].default:
            yield Fault(f"{field}.{name}", rule="only the corpus job reads it", fix="leave it out")
