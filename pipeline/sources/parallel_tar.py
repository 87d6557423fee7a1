"""The members of a tar beside another one, by the keys of the other's samples.

Both tars have their keys in one order as a rule, so the second is read forward as the first one's
keys come. Groups that are passed on the way are held until their key comes, up to a limit.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError
from pipeline.sources.media_types import is_video
from pipeline.sources.tar_groups import Member, MemberGroup, read_groups
from pipeline.sources.tar_stream import DamagedTar
from pipeline.storage.files import FileRefused, open_file

MAX_HELD_BYTES: Final = 128 << 20
"""Maximum memory for groups whose keys have not come yet."""


_GROUP_BYTES: Final = 1000
"""Number of bytes that a held group counts beside its names and content."""


_log = logging.getLogger(__name__)


class ParallelTar:
    """Gives the sidecars in a parallel tar; a context manager. It never gives a video.

    Args:
        uri: URI of the tar.
        storage_options: options of its file system.
        tracks: tracks of the job, whose sidecars can be larger than others.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, Any] | None,
        tracks: Sequence[TrackConfig] = (),
    ) -> None:
        self._uri = uri
        self._held: dict[str, MemberGroup] = {}
        self._held_bytes = 0
        self._end: str | None = None
        """Reason why no more groups are read."""
        self._asked = self._lacking = 0
        self._first_lacking = ""
        self._open = ExitStack()
        self._groups: Iterator[MemberGroup] = iter(())
        try:
            file = self._open.enter_context(open_file(uri, storage_options))
        except FileNotFoundError as error:
            raise StoreError(
                f"{uri}: missing, although it existed when the job was planned"
            ) from error
        except FileRefused as error:
            self._end = str(error)
        else:
            self._groups = read_groups(file, max_video_bytes=0, tracks=tracks)

    def __enter__(self) -> "ParallelTar":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if self._lacking:
            counts = f"{self._lacking} of {self._asked} samples, first {self._first_lacking}"
            others = f"{len(self._held)} of its keys are of no sample"
            _log.warning("%s has nothing for %s; %s", self._uri, counts, others)

    def members(self, key: str) -> tuple[list[Member], str | None]:
        """Return the sidecars of a key, and why there are none.

        Of several groups with one key the first counts.

        Raises:
            StoreError: the store failed; retry the unit later.
        """
        self._asked += 1
        group = self._held.pop(key, None)
        if group is not None:
            self._held_bytes -= _size(group)
        while group is None and (passed := self._next()) is not None:
            if passed.key == key:
                group = passed
            elif passed.key not in self._held:
                self._held[passed.key] = passed
                self._held_bytes += _size(passed)
        if group is None:
            self._lacking += 1
            self._first_lacking = self._first_lacking or key
            return [], f"{self._uri}: {self._end or 'has no member of this key'}"
        return [member for member in group.members if not is_video(member.name)], None

    def _next(self) -> MemberGroup | None:
        """Return the next group, None if no more are read."""
        if self._held_bytes > MAX_HELD_BYTES:
            mib = MAX_HELD_BYTES >> 20
            self._end = f"{mib} MiB of it are of keys that have not come; give both tars one order"
        if self._end is not None:
            return None
        try:
            return next(self._groups, None)
        except (DamagedTar, FileRefused) as error:
            self._end = str(error)
        return None


def _size(group: MemberGroup) -> int:
    return _GROUP_BYTES + group.names_bytes + sum(len(m.data or b"") for m in group.members)
