"""Where videos come from: one section for the corpus job, training and evaluation."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.loading import Fault
from pipeline.config.section import Section, Strings

_PROTOCOLS: Final = ["file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf"]


_FIELD: Final = re.compile(r"\{([^{}:]+)(?::0(\d{1,2})d?)?\}")
"""A column in a template: `{name}`, or `{name:03d}` with zeros in front."""


def template_columns(template: str) -> list[str]:
    """Return the columns that a template names; an empty list if it is not a template."""
    return [found[1] for found in _FIELD.finditer(template)]


def filled(template: str, row: Mapping[Any, Any]) -> str:
    """Return a template with the values of a row in place of its columns.

    Raises:
        ValueError: the row lacks a value that the template names.
    """

    def value(found: re.Match[str]) -> str:
        if (value := row.get(found[1])) is None or value == "":
            raise ValueError(f"{found[1]} is empty, but the template {template} needs it")
        return str(value).zfill(int(found[2] or 0))

    return _FIELD.sub(value, template)


class FramesConfig(Section):
    """Parquet files with one row per sample of a track, for the tracks of list rows."""

    path: str
    """Path of the file with the tracks of a list row, as a template of the list's columns. A
    relative path starts from `lists.root`."""
    key: str
    """Name of a column that the list and the file both have. A row of the file belongs to the list
    row with the same value."""


class ListConfig(Section):
    """Columns and units of video lists (Parquet, CSV, TSV or JSON Lines)."""

    video: str = "video"
    """Name of the column with the video or image. A cell holds a URI, a path, the bytes (Parquet
    only), or `{bytes, path}` as written by Hugging Face `datasets`. A template such as
    `videos/{id}.mp4` or `{chunk:03d}/{file:03d}.mp4` makes the path from several columns."""
    root: str | None = None
    """Folder or prefix that relative paths start from. null: the folder of the list."""
    key: str | None = None
    """Name of the column with the sample's key, which must be unique in the list. null: the row
    number, from 0."""
    caption: str | None = None
    """Name of the column with the caption. null: no captions."""
    start_s: str | None = None
    """Name of the column with the second at which a sample starts in its video. null in the setting
    or in a row: the start of the video."""
    end_s: str | None = None
    """Name of the column with the second at which a sample ends in its video. null in the setting
    or in a row: the end of the video."""
    meta: list[str] | None = None
    """Names of the columns that are copied to `meta`. null: all columns."""
    frames: FramesConfig | None = None
    """Parquet files with the tracks (actions, poses, sensors) of the list rows, with one row per
    time step. null: tracks are columns of the list."""
    rows_per_unit: PositiveInt = 128
    """Number of rows in one work unit. In a Parquet list that holds the video bytes, a unit also
    ends at the end of each row group. The default suits videos, where 128 rows are minutes of work.
    Use more for images."""


class BesideConfig(Section):
    """Place of the sidecars in another tree: `find` in a URI is replaced by `replace`."""

    find: Annotated[str, Field(min_length=1)]
    """Text to find in the URI of a tar or file, such as `/video/`. The last occurrence is
    replaced."""
    replace: str
    """Replacement for `find`, such as `/metas/`. The result is the URI of the parallel tar or
    file."""

    def of(self, uri: str) -> str | None:
        """Return the parallel URI, None for a URI that does not have the part."""
        head, found, tail = uri.rpartition(self.find)
        return f"{head}{self.replace}{tail}" if found else None


def _lerobot_lists(camera: str) -> dict[str, Any]:
    """Return the `lists` of a LeRobot v3 dataset, whose episodes are spans of shared videos."""
    place = "chunk-{%s/chunk_index:03d}/file-{%s/file_index:03d}"
    video = f"videos/{camera}"
    return {
        "root": None,
        "video": f"../../../{video}/{place % (video, video)}.mp4",
        "start_s": f"{video}/from_timestamp",
        "end_s": f"{video}/to_timestamp",
        "key": "episode_index",
        "caption": "tasks",
        "meta": ["length"],
        "frames": {
            "path": f"../../../data/{place % ('data', 'data')}.parquet",
            "key": "episode_index",
        },
    }


class VideoSource(Section):
    """Source of videos and images."""

    uri: Annotated[Strings, Field(min_length=1)]
    """URIs or paths of tars, files, folders, globs or `{000..999}` patterns; one or several. A
    pattern that ends in `.parquet`, `.csv`, `.tsv` or `.jsonl` names lists of videos, which only
    `tokenize` reads."""
    exclude: Strings = Field(default=[])
    """Glob patterns of files and samples to leave out. A pattern is compared with the full URI of a
    file and with the key of a sample; `*` also matches `/`."""
    beside: list[BesideConfig] = Field(default=[])
    """Parallel trees that hold sidecars of the samples in `uri`. In each URI, `find` is replaced by
    `replace`. Members or files there with the key of a sample are its sidecars. Only for
    `tokenize`."""
    caption: str | None = None
    """Path of the caption in a sample's `.json`, such as `windows.qwen_caption`. If the path leads
    to a JSON array, its first element with a text is taken. null: the `.txt` beside the video,
    otherwise `caption` or `text` of the `.json`. For lists of videos, set `lists.caption` instead.
    Only for `tokenize`."""
    lists: ListConfig = ListConfig()
    """Columns and units of the lists in `uri` (Parquet, CSV, TSV or JSON Lines). Only for
    `tokenize`."""
    lerobot: str | None = Field(default=None, exclude=True)
    """Name of a camera, such as `observation.images.top`, of the LeRobot v3 datasets in `uri`. Each
    episode becomes a sample with its task as the caption. Only for `tokenize`."""
    files_per_unit: PositiveInt | None = None
    """Maximum number of loose files in one work unit. A unit is retried and committed as a whole.
    null: 16 videos or 256 images, about a minute of work. A unit with both has fewer of each in
    proportion. Only for `tokenize`."""
    max_video_mb: PositiveInt = 2048
    """Maximum size of a video in MB (10^6 bytes). A larger video is not read but reported as too
    large, because each video is held in memory as a whole."""
    max_meta_kb: PositiveInt = 64
    """Maximum size of a sample's caption, and of its `meta`, in kB (10^3 bytes). There is a limit
    because every clip has a copy. Values that do not fit are left out, the largest first, and are
    named in `meta` under `_problems`."""
    protocols: list[str] = Field(default=_PROTOCOLS)
    """Allowed protocols of URIs, in `uri` and in the rows of lists. `file` stands for local paths.
    Other protocols are refused, and so are chains of file systems
    (`zip://a.mp4::s3://bucket/b.zip`)."""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec, such as endpoint and credentials. They are never written to disk."""

    @model_validator(mode="before")
    @classmethod
    def _of_lerobot(cls, values: Any) -> Any:
        """Return the settings with the lists that `lerobot` stands for."""
        camera = values.get("lerobot") if isinstance(values, Mapping) else None
        uris = values.get("uri", []) if camera is not None else []
        uris = [uris] if isinstance(uris, str) else uris
        lists = values.get("lists", {})
        if isinstance(lists, ListConfig):
            lists = lists.model_dump(exclude_unset=True)
        right = isinstance(lists, Mapping) and isinstance(uris, list)
        if not isinstance(camera, str) or not right or not all(isinstance(u, str) for u in uris):
            return values  # the fields say what is wrong
        episodes = [f"{uri.rstrip('/')}/meta/episodes/*/*.parquet" for uri in uris]
        return {
            **{name: value for name, value in values.items() if name != "lerobot"},
            "uri": episodes,
            "lists": {**_lerobot_lists(camera), **lists},
        }

    def excludes(self, *names: str) -> bool:
        """Return whether a pattern of `exclude` matches one of a sample's names.

        Args:
            names: full URI of a file, key of a sample, or both.
        """
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.exclude)


_JOB_ONLY: Final = ("beside", "caption", "lists", "files_per_unit")


def job_only_faults(source: VideoSource, field: str) -> Iterator[Fault]:
    """Yield a fault for each setting that only the corpus job reads."""
    for name in _JOB_ONLY:
        if getattr(source, name) != VideoSource.model_fields[name].default:
            yield Fault(f"{field}.{name}", rule="only tokenize reads it", fix="leave it out")
