"""Folders of sources while a job plans: their files, their sidecars, and what is beside them."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.config.source import VideoSource
from pipeline.errors import ConfigError
from pipeline.sources.media_types import is_hidden, is_image, is_tar, is_video
from pipeline.sources.text import escaped_name
from pipeline.storage.files import find_files, list_folder, require_protocol


class Folders:
    """Listings of one planning call; each folder is listed once."""

    def __init__(self, storage_options: Mapping[str, Any] | None, *, images: bool) -> None:
        self.storage_options = storage_options
        self.skipped: dict[str, str] = {}
        """What the sources hold that is not a file: its path, and what it is."""
        self._images = images
        self._names: dict[str, frozenset[str]] = {}
        self._video_stems: dict[str, frozenset[str]] = {}
        self._sidecars: dict[str, dict[str, list[str]]] = {}
        self.beside: set[str] = set()
        """Files and tars that `Parallel` found beside the sources."""

    def names(self, folder: str) -> frozenset[str]:
        """Return the files directly in a folder."""
        if folder not in self._names:
            self._names[folder] = frozenset(list_folder(folder, self.storage_options))
        return self._names[folder]

    def find(self, uri: str) -> list[str]:
        """Return the files that a source names, sorted."""
        return find_files(uri, self.storage_options, self.skipped)

    def is_sample(self, name: str) -> bool:
        """Return whether a file is a video, or an image that is read and has no video."""
        if not (self._images and is_image(name)):
            return is_video(name)
        folder = posixpath.dirname(name)
        if folder not in self._video_stems:
            stems = frozenset(_stem(n) for n in self.names(folder) if is_video(n))
            self._video_stems[folder] = stems
        return _stem(name) not in self._video_stems[folder]

    def sidecars(self, sample: str) -> tuple[str, ...]:
        """Return the files that share a sample's stem; each belongs to its longest stem."""
        folder = posixpath.dirname(sample)
        if folder not in self._sidecars:
            stems = [_stem(name) for name in self.names(folder) if self.is_sample(name)]
            self._sidecars[folder] = self.of_stems(folder, stems)
        return tuple(self._sidecars[folder].get(_stem(sample), ()))

    def of_stems(self, folder: str, stems: Iterable[str]) -> dict[str, list[str]]:
        """Return the files of a folder that are not samples, by the longest stem that each has."""
        by_stem: dict[str, list[str]] = {stem: [] for stem in stems}
        for name in sorted(self.names(folder)):
            if not self.is_sample(name) and not is_tar(name) and not is_hidden(name):
                stem = next((s for s in _stems(name) if s in by_stem), None)
                if stem is not None:
                    by_stem[stem].append(name)
        return by_stem

    def is_sidecar(self, name: str) -> bool:
        """Return whether a file is a sidecar in a folder whose sidecars were asked for."""
        if name in self.beside:
            return True
        by_stem = self._sidecars.get(posixpath.dirname(name), {})
        return any(name in by_stem.get(stem, ()) for stem in _stems(name))


class Parallel:
    """The trees of `source.beside`: what they hold for the tars and files of the sources."""

    def __init__(self, source: VideoSource, folders: Folders) -> None:
        self._source = source
        self._folders = folders
        self._lacking: list[list[str]] = [[] for _ in source.beside]
        self._num_names = 0

    def of(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the parallel tars of each tar, and the parallel files of each file.

        A tar that is parallel to another one is not a source, so it is left out.

        Raises:
            ConfigError: a parallel URI has a protocol that is not allowed.
        """
        places = [[(name, one.of(name)) for name in names] for one in self._source.beside]
        tars = {place for some in places for _, place in some if place and is_tar(place)}
        found: dict[str, list[str]] = {name: [] for name in names if name not in tars}
        self._num_names += len(found)
        for some, lacking in zip(places, self._lacking, strict=True):
            held = self._held([place for name, place in some if place and name in found])
            for name, place in some:
                if name in found:
                    files = held.get(place, []) if place else []
                    found[name] += [file for file in files if file not in found[name]]
                    lacking += [] if files else [name]
        self._folders.beside |= {file for files in found.values() for file in files}
        return found

    def _held(self, places: Sequence[str]) -> dict[str, list[str]]:
        """Return the tar at each place that is one, and the files with the stem of each other."""
        stems: dict[str, list[str]] = {}
        for place in places:
            require_protocol(place, self._source.protocols)
            stems.setdefault(posixpath.dirname(place), []).append(posixpath.splitext(place)[0])
        by_stem: dict[str, list[str]] = {}
        for folder, some in stems.items():
            by_stem |= self._folders.of_stems(folder, some)
        there = self._folders.names
        return {
            place: [place] * (place in there(posixpath.dirname(place)))
            if is_tar(place)
            else by_stem[posixpath.splitext(place)[0]]
            for place in places
        }

    def notes(self) -> Iterator[str]:
        """Yield a line for each tree that lacks something.

        Raises:
            ConfigError: a tree holds nothing for any tar or file.
        """
        for one, lacking in zip(self._source.beside, self._lacking, strict=True):
            if not lacking:
                continue
            count = f"{len(lacking)} of {self._num_names} tars and files"
            first = f"first {escaped_name(one.of(lacking[0]) or lacking[0])}"
            line = (
                f"source.beside: {one.find} to {one.replace}: nothing is there for {count}, {first}"
            )
            if len(lacking) == self._num_names:
                raise ConfigError(f"source.beside: {line}; correct find or replace")
            yield line


def _stem(path: str) -> str:
    return path[: path.rindex(".")]


def _stems(path: str) -> Iterator[str]:
    """Yield a path's stems from the longest on: `a/x.en.vtt` gives `a/x.en`, then `a/x`."""
    start = path.rfind("/") + 1
    end = path.rfind(".")
    while end > start:
        yield path[:end]
        end = path.rfind(".", start, end)
