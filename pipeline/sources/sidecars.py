"""A video's sidecars: its caption, and all other files as one JSON object.

A bad sidecar never quarantines a video. A sidecar that cannot be parsed is kept as it is if
possible, and listed under `_problems`, so that it can be found later.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.sources.text import PROBLEMS, caption_of, decoded, json_value, texts_within

MAX_SIDECAR_BYTES: Final = 1 << 20
"""Maximum size of a sidecar that is read. A larger one is listed in `meta` without its content."""


MAX_SIDECARS_BYTES: Final = 16 << 20
"""Maximum size of all sidecars of one sample together."""


@dataclass(slots=True)
class Sidecars:
    """The sidecars of one video: content by extension, and what could not be read."""

    content: dict[str, bytes] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def caption_and_meta(self, max_kb: int) -> tuple[str | None, str | None]:
        """Return the caption (from `txt`, else `caption` or `text` of `json`) and the JSON.

        The JSON object maps each extension to parsed JSON, text, or `{"base64": …}`; it is None if
        it would be empty. It does not repeat the file that holds the caption.

        Args:
            max_kb: `source.max_meta_kb`, the maximum size of each of the two.
        """
        problems = dict(self.problems)
        meta: dict[str, Any] = {}
        caption: str | None = None
        for extension, data in sorted(self.content.items()):
            value, problem = _parse(extension, data)
            if problem is not None:
                problems[extension] = problem
            if extension == "txt" and isinstance(value, str):
                caption = caption_of(value)
            else:
                meta[extension] = value
        if caption is None and isinstance(found := meta.get("json"), dict):
            caption = caption_of(found.get("caption")) or caption_of(found.get("text"))
        if problems:
            meta[PROBLEMS] = problems
        return texts_within(caption, meta, max_kb, "txt")


def _parse(extension: str, data: bytes) -> tuple[Any, str | None]:
    """Return a sidecar's content and its problem, if any."""
    value, problem = decoded(data)
    if problem is None and extension == "json":
        try:
            return json_value(json.loads(value)), None
        except (ValueError, RecursionError) as error:
            return value, f"not JSON: {error}"
    return value, problem if extension in ("txt", "json") else None
