"""Tars for tests: built in memory from (name, data), and hypothesis' own."""

import io
import tarfile
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

Files = Sequence[tuple[str, bytes]]


def make_tar(files: Iterable[tuple[str, bytes]], *, mode: str = "w", format: int = 2) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as tar:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member_offsets(tar: bytes) -> list[tuple[str, int, int]]:
    """Return name, offset of the header, and offset of the first byte after the data."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return [(m.name, m.offset, m.offset_data + m.size) for m in opened.getmembers()]


_word = st.text("abcXYZ019-_ é漢", min_size=1, max_size=8).filter(lambda word: "__" not in word)
keys = st.lists(_word, min_size=1, max_size=3).map("/".join)
"""Keys as webdataset has them: folders, and a base name without a dot."""

extensions = st.sampled_from(["txt", "json", "TXT", "en.vtt", "cls", "bin", "v1.npy"])
videos = st.sampled_from(["mp4", "MP4", "v2.mkv", "webm"])
contents = st.binary(max_size=1500)


@st.composite
def good_tars(draw: st.DrawFn) -> list[tuple[str, dict[str, bytes]]]:
    """Samples as (key, {extension as spelled: content}), each with one video, keys unique."""
    samples = []
    for key in draw(st.lists(keys, unique=True, max_size=6)):
        spelled = [
            draw(videos),
            *draw(st.lists(extensions, max_size=3, unique_by=str.lower)),
        ]
        members = {name: draw(contents) for name in draw(st.permutations(spelled))}
        samples.append((key, members))
    return samples


def files_of(samples: Sequence[tuple[str, dict[str, bytes]]]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{ext}", data) for key, members in samples for ext, data in members.items()]
