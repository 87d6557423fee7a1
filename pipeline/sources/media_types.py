"""Which file names are videos, images and tars."""

import posixpath
from typing import Final

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")


IMAGE_EXTENSIONS: Final = frozenset({"avif", "bmp", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
"""Last extensions of images, in lower case, where images are read."""


VIDEO_EXTENSIONS: Final = frozenset(
    {"3g2", "3gp", "asf", "avi", "dv", "f4v", "flv", "gif", "ivf", "m2ts", "m2v", "m4v", "mkv"}
    | {"mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "ts", "vob", "webm", "wmv", "y4m"}
)
"""Last extensions of videos, in lower case, loose and inside tars."""


def is_video(name: str) -> bool:
    """Return whether a file's last extension belongs to a video."""
    return _extension(name) in VIDEO_EXTENSIONS


def is_image(name: str) -> bool:
    """Return whether a file's last extension belongs to an image."""
    return _extension(name) in IMAGE_EXTENSIONS


def is_tar(name: str) -> bool:
    """Return whether a file's name ends as a tar's."""
    return name.lower().endswith(TAR_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Return whether an archiver or a desktop made this file, not the user."""
    parts = path.split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].removeprefix(".").lower()
