"""Plan: from the sources that a user names to work units, in an order that only they decide.

A source is a tar, a video file, a folder, a glob, or a brace pattern (`s-{000..999}.tar`) of these.
A tar is one unit. Loose video files, sorted, are cut into runs of `files_per_unit`, source by
source; files that share a video's stem are its sidecars.

Identity follows from the input alone. A unit's id is a readable stem and 12 hex digits of what it
covers: the tar's URI, or the URIs of a run's files. So a run with other files is another unit, and
when files arrive in a folder that is partly done, `subtract` takes the committed files out of the
new runs: nothing is tokenized twice, nothing is left out. Tars and files are taken to be immutable:
one that is replaced under its old name counts as done.
"""

import hashlib
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from braceexpand import braceexpand

from pipeline.errors import ConfigError
from pipeline.records import LooseFile, Reopened, UnitRecord, WorkUnit
from pipeline.storage import canonical_uri, find_files, list_folder

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
VIDEO_EXTENSIONS: Final = frozenset(
    {"3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf"}
    | {"ogv", "ts", "webm", "wmv", "y4m"}
)
"""What counts as a video, by the lower-cased last extension, loose and inside tars."""

_EXISTS_ONE_BY_ONE: Final = 8
"""From this many names in one folder on, one listing is cheaper than asking for each."""


@dataclass(slots=True)
class Committed:
    """What the commit log covers: unit ids, and the URIs that those units were read from."""

    units: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    reopened: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Units that are to be done again, with their sources; neither stands in the sets above."""

    def add(self, record: UnitRecord) -> None:
        """Take in one committed unit."""
        self.units.add(record.unit)
        self.sources.update(record.sources)
        self.reopened.pop(record.unit, None)

    def reopen(self, unit: Reopened) -> None:
        """Take in that a committed unit is to be done again."""
        self.units.discard(unit.unit)
        self.sources.difference_update(unit.sources)
        self.reopened[unit.unit] = unit.sources

    def covers(self, record: UnitRecord) -> bool:
        """Return whether a unit may not be committed: it is, or another one has its sources."""
        if record.unit in self.reopened:
            return False
        return (
            record.unit in self.units
            or not self.sources.isdisjoint(record.sources)
            or any(not set(s).isdisjoint(record.sources) for s in self.reopened.values())
        )


def is_video(name: str) -> bool:
    """Return whether a file's last extension is that of a video."""
    _, dot, extension = posixpath.basename(name).rpartition(".")
    return bool(dot) and extension.lower() in VIDEO_EXTENSIONS


def is_tar(name: str) -> bool:
    """Return whether a file's name is that of a tar."""
    return name.lower().endswith(TAR_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Return whether an archiver or a desktop left this file, not the user."""
    parts = path.split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts


def unit_sources(unit: WorkUnit) -> tuple[str, ...]:
    """Return the URIs that a unit is read from, as its `UnitRecord` lists them."""
    return (unit.tar_uri,) if unit.tar_uri else tuple(file.uri for file in unit.files)


def plan_units(
    uris: Sequence[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    files_per_unit: int = 16,
) -> list[WorkUnit]:
    """Return the work units of all sources, in the order given, sorted within each.

    Only names are listed; no content is read. A file that two sources reach belongs to the first.

    Raises:
        ConfigError: a source matches no tar and no video, or a brace pattern has gaps.
    """
    if files_per_unit < 1:
        raise ConfigError(f"source.files_per_unit = {files_per_unit}: must be 1 or more")
    if not uris:
        raise ConfigError("source.uri is empty: name at least one tar, video, folder or pattern")
    taken: set[str] = set()
    folders = _Folders(storage_options)
    units: list[WorkUnit] = []
    for uri in uris:
        prefix, found = _resolve(uri, folders)
        videos: list[str] = []
        for name in found:
            if name in taken:
                continue
            taken.add(name)
            if is_tar(name):
                units.append(WorkUnit(unit=unit_id(name, [name]), tar_uri=name))
            else:
                videos.append(name)
        files = [_loose_file(name, prefix, folders) for name in videos]
        units += cut_runs(files, files_per_unit)
    return units


def subtract(
    units: Iterable[WorkUnit], committed: Committed, *, files_per_unit: int = 16
) -> list[WorkUnit]:
    """Return what is left to do.

    Units in the log are done. Out of the other runs of loose files, those files are taken that
    committed units cover already; what is left of such runs is cut anew, so that files which
    trickle into a large folder do not become a unit each. A unit that is to be done again is the
    same run as before, however the plan cuts its files; it waits if the plan lacks one of them.
    """
    left: list[WorkUnit] = []
    rest: dict[str, list[LooseFile]] = {}
    again: dict[str, LooseFile | None] = {
        uri: None for sources in committed.reopened.values() for uri in sources
    }
    for unit in units:
        if unit.unit in committed.units or unit.tar_uri in committed.sources:
            continue
        again.update((file.uri, file) for file in unit.files if file.uri in again)
        files = [
            file
            for file in unit.files
            if file.uri not in committed.sources and file.uri not in again
        ]
        if len(files) == len(unit.files):
            left.append(unit)
        for file in files if len(files) < len(unit.files) else ():
            # Runs of two sources stay apart: only within one are keys unique.
            rest.setdefault(file.uri.removesuffix(file.key), []).append(file)
    for files in rest.values():
        left += cut_runs(files, files_per_unit)
    for name, sources in committed.reopened.items():
        run = tuple(known for uri in sources if (known := again[uri]) is not None)
        if len(run) == len(sources):
            left.append(WorkUnit(unit=name, files=run))
    return left


def take_slice(units: Iterable[WorkUnit], index: int, of: int) -> list[WorkUnit]:
    """Return this driver's share of a plan that `of` drivers divide; `index` counts from 0.

    By a hash of the unit's id: a unit keeps its slice when others come or go.
    """
    if not 0 <= index < of:
        raise ConfigError(f"slice = {index}/{of}: takes 0/{of} to {of - 1}/{of}")
    return [unit for unit in units if int(_digest([unit.unit]), 16) % of == index]


class _Folders:
    """Listings of one planning call; each folder is asked for once."""

    def __init__(self, storage_options: Mapping[str, Any] | None) -> None:
        self.storage_options = storage_options
        self._names: dict[str, frozenset[str]] = {}
        self._sidecars: dict[str, dict[str, list[str]]] = {}

    def names(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            self._names[folder] = frozenset(list_folder(folder, self.storage_options))
        return self._names[folder]

    def sidecars(self, video: str) -> tuple[str, ...]:
        """Return the files that share a video's stem, each given to the longest stem it has."""
        folder = posixpath.dirname(video)
        if folder not in self._sidecars:
            names = self.names(folder)
            by_stem: dict[str, list[str]] = {_stem(n): [] for n in names if is_video(n)}
            for name in sorted(names):
                if not is_video(name) and not is_tar(name) and not is_hidden(name):
                    stem = next((s for s in _stems(name) if s in by_stem), None)
                    if stem is not None:
                        by_stem[stem].append(name)
            self._sidecars[folder] = by_stem
        return tuple(self._sidecars[folder].get(_stem(video), ()))


def _resolve(uri: str, folders: _Folders) -> tuple[str, list[str]]:
    """Return a source's static prefix and its tars and videos, sorted."""
    options = folders.storage_options
    found = find_files(uri, options) if "{" in uri else []
    spellings = [uri] if found else _braces(uri)
    if len(spellings) > 1:
        found = _named(uri, [canonical_uri(s, options) for s in spellings], folders)
    elif not found:
        found = find_files(spellings[0], options)
    if not found:
        raise ConfigError(
            f"source.uri: {uri}: matches no file; check the spelling, the credentials in"
            " storage_options, and that the shell did not expand the pattern"
        )
    usable = sorted(n for n in found if (is_tar(n) or is_video(n)) and not is_hidden(n))
    if not usable:
        raise ConfigError(
            f"source.uri: {uri}: {len(found)} files, but no tar ({' '.join(TAR_SUFFIXES)}) and no"
            f" video ({' '.join(sorted(VIDEO_EXTENSIONS))}) among them"
        )
    return _static_prefix(uri, found, options), usable


def _braces(uri: str) -> list[str]:
    try:
        return list(braceexpand(uri, escape=False))
    except ValueError as error:
        raise ConfigError(f"source.uri: {uri}: unbalanced braces; close each {{") from error


def _named(uri: str, spellings: list[str], folders: _Folders) -> list[str]:
    """Return the files of an expanded brace pattern; each of its names must match."""
    options = folders.storage_options
    counts: dict[str, int] = {}
    for name in spellings:
        counts[posixpath.dirname(name)] = counts.get(posixpath.dirname(name), 0) + 1
    found: list[str] = []
    missing: list[str] = []
    for name in spellings:
        folder = posixpath.dirname(name)
        if counts[folder] > _EXISTS_ONE_BY_ONE and name in folders.names(folder):
            found.append(name)
            continue
        # A name that the listing does not show can be a folder or hold a wildcard; past a few
        # that are nothing, the answer is known and asking on would cost a request each.
        matches = find_files(name, options) if len(missing) < _EXISTS_ONE_BY_ONE else []
        found += matches
        if not matches:
            missing.append(name)
    if found and missing:
        raise ConfigError(
            f"source.uri: {uri}: {len(missing)} of {len(spellings)} names match nothing, first"
            f" {', '.join(missing[:3])}; correct the range or bring the files"
        )
    return sorted(set(found))


def _static_prefix(uri: str, found: list[str], options: Mapping[str, Any] | None) -> str:
    """Return the folder before the first wildcard: keys of loose files are relative to it."""
    whole = canonical_uri(uri, options)
    if found == [whole]:
        return posixpath.dirname(whole) + "/"
    folder = whole.rstrip("/") + "/"
    wildcard = re.search(r"[*?\[{]", whole)
    if wildcard is None or found[0].startswith(folder):
        return folder
    return whole[: whole.rfind("/", 0, wildcard.start()) + 1]


def _loose_file(uri: str, prefix: str, folders: _Folders) -> LooseFile:
    return LooseFile(key=uri.removeprefix(prefix), uri=uri, sidecar_uris=folders.sidecars(uri))


def cut_runs(files: Sequence[LooseFile], files_per_unit: int) -> Iterator[WorkUnit]:
    """Yield loose files as units of consecutive runs, in the order given."""
    for start in range(0, len(files), files_per_unit):
        run = tuple(files[start : start + files_per_unit])
        yield WorkUnit(unit=unit_id(run[0].uri, [file.uri for file in run]), files=run)


def unit_id(name: str, covers: Collection[str]) -> str:
    """Return `<stem of the name>-<12 hex of the covered URIs>`, safe as a file name everywhere."""
    base = posixpath.basename(name)
    suffix = next((s for s in TAR_SUFFIXES if base.lower().endswith(s)), None)
    stem = base[: -len(suffix)] if suffix else posixpath.splitext(base)[0]
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", stem).strip("-.")[:64] or "unit"
    return f"{stem}-{_digest(covers)}"


def _digest(names: Iterable[str]) -> str:
    # Joined by a byte that no URI holds, so that no two lists run together.
    return hashlib.sha256(
        b"\0".join(n.encode("utf-8", "surrogateescape") for n in names)
    ).hexdigest()[:12]


def _stem(path: str) -> str:
    return path[: path.rindex(".")]


def _stems(path: str) -> Iterator[str]:
    """Yield a path's stems from the longest on: `a/x.en.vtt` gives `a/x.en`, then `a/x`."""
    start = path.rfind("/") + 1
    end = path.rfind(".")
    while end > start:
        yield path[:end]
        end = path.rfind(".", start, end)
