"""From sources to work units, in an order that follows from the sources alone.

A source is a tar, a video file, a folder, a glob, or a brace pattern (`s-{000..999}.tar`) of these.
A pattern that ends as a list names lists (`pipeline.sources.lists`). A tar is one unit. Loose files
are sorted and divided into runs by `files_per_unit`, source by source; files that share a video's
stem are its sidecars. Lists are divided into runs of rows.

Identity follows from the input alone. A unit's id is a readable stem and 12 hex digits of its
input: the tar's URI, the URIs of a run's files, or the range of rows. So a run with other files is
another unit, and `pipeline.job.remaining` removes the part that is already done. Tars, files and
rows must be immutable: one that is replaced under its old name counts as done.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from braceexpand import braceexpand

from pipeline.config.source import VideoSource
from pipeline.errors import ConfigError
from pipeline.records import ListRows, LooseFile, WorkUnit, range_name
from pipeline.sources.folders import Folders, Parallel
from pipeline.sources.lists import LIST_SUFFIXES, cut_list, is_list
from pipeline.sources.media_types import (
    TAR_SUFFIXES,
    VIDEO_EXTENSIONS,
    is_hidden,
    is_image,
    is_tar,
)
from pipeline.sources.text import escaped_name
from pipeline.storage.access import wrong_settings
from pipeline.storage.files import (
    canonical_uri,
    is_local,
    portable,
    require_protocol,
)

_LISTS_AT_ONCE: Final = 16
"""Number of lists that are read at once; each costs a few requests."""


_VIDEO_COST: Final = 16
"""Work of a video, as a multiple of an image's."""


_UNIT_COST: Final = 256
"""Maximum work of a unit of loose files by default: 256 images or 16 videos."""


_EXISTS_ONE_BY_ONE: Final = 8
"""Maximum number of names in a folder that are looked up one by one; for more, it is listed."""


def plan_units(
    source: VideoSource,
    *,
    images: bool = False,
    single: bool = False,
    notes: list[str] | None = None,
) -> list[WorkUnit]:
    """Return the work units of all sources, in the order given, sorted within each.

    Only names are listed and lists are read; no video is read. A file in two sources belongs to the
    first.

    Args:
        source: the sources, and how they are divided.
        images: whether loose images are samples; an image with the stem of a video is its sidecar.
        single: whether each loose file is a unit and no source can be a list, as in training and
            evaluation.
        notes: gets a line about the files that are left aside, if there are any.

    Raises:
        ConfigError: a source matches no tar, video or list, a brace pattern has gaps, a list
            lacks a column, or everything is excluded.
        StoreError: the store failed.
    """

    def cut(uri: str) -> list[ListRows]:
        return list(cut_list(uri, source.lists, source.storage_options))

    found: set[str] = set()
    taken: set[str] = set()
    excluded: set[str] = set()
    folders = Folders(source.storage_options, images=images)
    parallel = Parallel(source, folders)
    units: list[WorkUnit] = []
    for field, uri in [*(("uri", uri) for uri in source.uri), ("lists.root", source.lists.root)]:
        try:
            require_protocol(uri or "", source.protocols)
        except ConfigError as error:
            raise ConfigError(f"source.{field}: {error}") from error
    for uri in source.uri:
        lists = is_list(uri) and not single
        with wrong_settings("source.uri", uri, "source.storage_options"):
            prefix, files, usable = _resolve(uri, folders, lists)
        found.update(files)
        names = []
        for name in usable:
            keys = [] if lists else [escaped_name(name.removeprefix(prefix))]
            if source.excludes(portable(name), *keys):
                excluded.add(name)
            elif name not in taken:
                names.append(name)
        beside = parallel.of([] if lists else names)
        names = names if lists else list(beside)
        taken.update(names)
        if lists:
            with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
                for runs in pool.map(cut, map(portable, names)):
                    units += map(rows_unit, runs)
            continue
        for name in filter(is_tar, names):
            tar, others = portable(name), tuple(map(portable, beside[name]))
            units.append(WorkUnit(unit=unit_id(tar, [tar]), tar_uri=tar, beside=others))
        loose = [
            LooseFile(
                key=escaped_name(n.removeprefix(prefix)),
                uri=portable(n),
                sidecar_uris=tuple(
                    map(portable, dict.fromkeys([*folders.sidecars(n), *beside[n]]))
                ),
            )
            for n in names
            if not is_tar(n)
        ]
        units += cut_runs(loose, 1 if single else source.files_per_unit)
    if not taken:
        raise ConfigError("source.exclude: excludes all sources; remove some patterns")
    lacking = list(parallel.notes())
    if notes is not None:
        notes += lacking
        notes += _aside(found - taken, excluded - taken, folders)
    return units


def _resolve(uri: str, folders: Folders, lists: bool) -> tuple[str, list[str], list[str]]:
    """Return a source's static prefix, its files, and of these the tars and samples, or lists."""
    options = folders.storage_options
    found = folders.find(uri) if "{" in uri else []
    try:
        spellings = [uri] if found else list(braceexpand(uri, escape=False))
    except ValueError as error:
        raise ConfigError(f"source.uri: {uri}: unbalanced braces; close each {{") from error
    if len(spellings) > 1:
        found = _named(uri, [canonical_uri(s, options) for s in spellings], folders)
    elif not found:
        found = folders.find(spellings[0])
    others = "".join(f"; {line}" for line in _skipped(folders))
    if not found:
        raise ConfigError(_no_file(uri) + others)
    usable = sorted(
        name
        for name in found
        if (is_list(name) if lists else is_tar(name) or folders.is_sample(name))
        and not is_hidden(name)
    )
    if not usable:
        if any(map(is_list, found)):
            raise ConfigError(
                f"source.uri: {uri}: has no tar and no video; to read lists, use a pattern that"
                f" ends as they do ({' '.join(LIST_SUFFIXES)}), as in {uri.rstrip('/')}/*.parquet"
            )
        raise ConfigError(
            f"source.uri: {uri}: {len(found)} files, but no tar ({' '.join(TAR_SUFFIXES)}) and no"
            f" video ({' '.join(sorted(VIDEO_EXTENSIONS))}) among them{others}"
        )
    return _static_prefix(uri, found, options), found, usable


def _no_file(uri: str) -> str:
    """Return the error of a source that matches nothing, with the advice that fits its kind."""
    pattern = re.search(r"[*?\[{]", uri) is not None
    if is_local(uri) and not pattern:
        path = Path(canonical_uri(uri))
        reason = "is an empty folder" if path.is_dir() else "does not exist"
        return f"source.uri: {uri}: matches no file: {path} {reason}"
    fix = ["the spelling"]
    if not is_local(uri):
        fix.append("the credentials in source.storage_options")
    if pattern:
        fix.append("that the shell did not expand the pattern")
    return f"source.uri: {uri}: matches no file; check {' and '.join(fix)}"


def _named(uri: str, spellings: list[str], folders: Folders) -> list[str]:
    """Return the files of an expanded brace pattern; each of its names must match."""
    counts = Counter(map(posixpath.dirname, spellings))
    found: list[str] = []
    missing: list[str] = []
    for name in spellings:
        folder = posixpath.dirname(name)
        if counts[folder] > _EXISTS_ONE_BY_ONE and name in folders.names(folder):
            found.append(name)
            continue
        # A name that the listing does not show can be a folder or hold a wildcard. After a few
        # that match nothing the source is wrong, and more look-ups only cost requests.
        matches = folders.find(name) if len(missing) < _EXISTS_ONE_BY_ONE else []
        found += matches
        if not matches:
            missing.append(name)
    if found and missing:
        raise ConfigError(
            f"source.uri: {uri}: {len(missing)} of {len(spellings)} names match nothing, first"
            f" {', '.join(missing[:3])}; correct the range, or add the files"
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


def _aside(names: set[str], excluded: set[str], folders: Folders) -> Iterator[str]:
    """Yield a line that counts the files that are not sources, if there are any."""
    other = Counter(
        escaped_name(posixpath.splitext(name)[1].lower()) or "no extension"
        for name in sorted(names - excluded)
        if not is_hidden(name) and not folders.is_sidecar(name)
    )
    counts = [f"{len(excluded)} excluded"] if excluded else []
    if other:
        most = ", ".join(f"{extension} {count}" for extension, count in other.most_common(5))
        counts.append(f"{other.total()} of other types ({most})")
    if counts:
        yield f"{len(excluded) + other.total()} files of the sources: {', '.join(counts)}"
    yield from _skipped(folders)


def _skipped(folders: Folders) -> Iterator[str]:
    """Yield a line for each kind of what is in the sources and not a file."""
    for kind, count in Counter(folders.skipped.values()).most_common():
        first = min(path for path, other in folders.skipped.items() if other == kind)
        yield f"left out of the sources: {kind}, {count} in all, first {escaped_name(first)}"


def rows_unit(rows: ListRows) -> WorkUnit:
    """Return the unit of a run of rows."""
    unit = unit_id(rows.uri, [range_name(rows.uri, rows.start, rows.stop)])
    return WorkUnit(unit=unit, rows=rows)


def cut_runs(files: Sequence[LooseFile], files_per_unit: int | None) -> Iterator[WorkUnit]:
    """Yield loose files as units of consecutive runs, in the order given.

    Args:
        files: the files, of one source.
        files_per_unit: maximum number of files of a unit; None: 16 videos or 256 images.
    """
    run: list[LooseFile] = []
    work = 0
    for file in files:
        cost = 1 if files_per_unit or is_image(file.key) else _VIDEO_COST
        if work + cost > (files_per_unit or _UNIT_COST):
            yield _run_unit(run)
            run, work = [], 0
        run.append(file)
        work += cost
    if run:
        yield _run_unit(run)


def _run_unit(run: Sequence[LooseFile]) -> WorkUnit:
    return WorkUnit(unit=unit_id(run[0].uri, [file.uri for file in run]), files=tuple(run))


def unit_id(name: str, covers: Collection[str]) -> str:
    """Return `<stem of the name>-<12 hex of the covered URIs>`, safe as a file name everywhere."""
    base = posixpath.basename(name)
    suffix = next((s for s in TAR_SUFFIXES if base.lower().endswith(s)), None)
    stem = base[: -len(suffix)] if suffix else posixpath.splitext(base)[0]
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", stem).strip("-.")[:64] or "unit"
    return f"{stem}-{digest(covers)}"


def digest(names: Iterable[str]) -> str:
    """Return 12 hex digits of a list of names."""
    # Joined by a byte that no URI holds, so that no two lists run together.
    return hashlib.sha256(
        b"\0".join(n.encode("utf-8", "surrogateescape") for n in names)
    ).hexdigest()[:12]
