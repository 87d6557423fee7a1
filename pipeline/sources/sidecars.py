"""A video's sidecars: its caption, and all other files as one JSON object.

A bad sidecar never quarantines a video. A sidecar that cannot be parsed is kept as it is if
possible, and listed under `_problems`, so that it can be found later.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.config.tracks import TrackConfig
from pipeline.quarantine import QuarantineError
from pipeline.sources.text import PROBLEMS, caption_of, decoded, json_value, texts_within
from pipeline.sources.tracks import MAX_TRACK_BYTES, Track, read_track

MAX_SIDECAR_BYTES: Final = 1 << 20
"""Maximum size of a sidecar that is read. A larger one is listed in `meta` without its content."""


MAX_SIDECARS_BYTES: Final = 16 << 20
"""Maximum size of all sidecars of one sample together."""


_PICKLES: Final = frozenset({"pickle", "pkl", "pt", "pth"})
"""Last extensions of pickles, which are never read: they can run code, and hold no text."""


BESIDE: Final = "beside"
"""Key of `_problems` for a sample that has nothing in a tree of `source.beside`."""


_log = logging.getLogger(__name__)


def max_sidecar_bytes(extension: str, tracks: Sequence[TrackConfig]) -> int:
    """Return the maximum size of a sidecar, which is larger for one that holds a track."""
    holds = any(track.sidecar == extension for track in tracks)
    return MAX_TRACK_BYTES if holds else MAX_SIDECAR_BYTES


def is_pickle(extension: str) -> bool:
    """Return whether a sidecar is a pickle, by its extension."""
    return extension.rpartition(".")[2] in _PICKLES


@dataclass(slots=True)
class Sidecars:
    """The sidecars of one video: content by extension, and what could not be read."""

    content: dict[str, bytes] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    _taken: dict[str, set[str]] = field(default_factory=dict)
    """Names of what tracks took, by extension; `*` for all of a sidecar."""

    def add(self, extension: str, name: str, read: Callable[[], bytes]) -> int:
        """Add a sidecar; return its number of bytes. Of two with one extension, the first counts.

        Args:
            extension: text behind the stem, in lower case.
            name: name of the file or member, for problems.
            read: returns its content. It raises ValueError or QuarantineError with the problem.
        """
        if extension in self.content or extension in self.problems:
            self.problems.setdefault(extension, f"{name} has this extension too and is left out")
            return 0
        try:
            if is_pickle(extension):
                raise ValueError(f"{name} is a pickle, which is never read")
            self.content[extension] = read()
        except QuarantineError as error:
            self.problems[extension] = error.detail
        except ValueError as error:
            self.problems[extension] = str(error)
        return len(self.content.get(extension, b""))

    def lack(self, where: str) -> None:
        """Note that a tree of `source.beside` has nothing for the sample."""
        before = self.problems.get(BESIDE)
        self.problems[BESIDE] = f"{before}; {where}" if before else where

    def tracks(self, configs: Sequence[TrackConfig], key: str) -> dict[str, Track]:
        """Return the tracks by name, and take them out of what becomes `meta`.

        A track that cannot be read is missing, logged, and listed among the problems.

        Args:
            configs: tracks of the job.
            key: key of the sample, for the log.

        Raises:
            QuarantineError: a required track is missing.
        """
        found: dict[str, Track] = {}
        for config in configs:
            extension = config.sidecar or ""
            problem = self.problems.get(extension, f"no sidecar {extension}")
            if (data := self.content.get(extension)) is not None:
                try:
                    found[config.name] = read_track(data, config)
                    continue
                except ValueError as error:
                    problem = f"track {config.name}: {error}"
                    self.problems[extension] = problem
                    _log.warning("%s: %s: %s", key, extension, problem)
            if config.required:
                raise QuarantineError("read", "no_track", f"{config.name}: {problem}")
        for config in configs:
            names = config.columns if config.key else ["*"]
            self._taken.setdefault(config.sidecar or "", set()).update(names)
        return found

    def caption_and_meta(
        self, max_kb: int, path: str | None = None
    ) -> tuple[str | None, str | None]:
        """Return the caption (from `txt`, else `caption` or `text` of `json`) and the JSON.

        The JSON object maps each extension to parsed JSON, text, or `{"base64": …}`; it is None if
        it would be empty. It does not repeat the file that holds the caption.

        Args:
            max_kb: `source.max_meta_kb`, the maximum size of each of the two.
            path: `source.caption`, the only place of the caption if it is given.
        """
        problems = dict(self.problems)
        meta: dict[str, Any] = {}
        caption: str | None = None
        for extension, data in sorted(self.content.items()):
            value, problem = _parse(extension, data)
            if problem is not None:
                problems.setdefault(extension, problem)
            if (taken := self._taken.get(extension)) is not None:
                if "*" in taken or not isinstance(value, dict):
                    continue
                value = {name: inner for name, inner in value.items() if name not in taken}
                if not value:
                    continue
            if path is None and extension == "txt" and isinstance(value, str):
                caption = caption_of(value)
            else:
                meta[extension] = value
        for place in ("caption", "text") if path is None else (path,):
            caption = caption or caption_of(_at(meta.get("json"), place.split(".")))
        if problems:
            meta[PROBLEMS] = problems
        return texts_within(caption, meta, max_kb, "txt")


def _at(value: object, names: list[str]) -> object:
    """Return the value at a path; that of each element for a list on the way."""
    if isinstance(value, list) and names:
        return [caption_of(_at(inner, names)) for inner in value]
    if isinstance(value, dict) and names:
        return _at(value.get(names[0]), names[1:])
    return None if names else value


def _parse(extension: str, data: bytes) -> tuple[Any, str | None]:
    """Return a sidecar's content and its problem, if any."""
    value, problem = decoded(data)
    if problem is None and extension == "json":
        try:
            return json_value(json.loads(value)), None
        except (ValueError, RecursionError) as error:
            return value, f"not JSON: {error}"
    return value, problem if extension in ("txt", "json") else None
