"""A video's sidecars: its caption, and all other files as one JSON object.

A bad sidecar never quarantines a video. A sidecar that cannot be parsed is kept as it is if
possible, and listed under `_problems`, so that it can be found later.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PROBLEMS: Final = "_problems"
"""Key of `meta` whose value maps a sidecar's extension to its problem."""


MAX_SIDECAR_BYTES: Final = 1 << 20
"""Maximum size of a sidecar. A larger one is listed in `meta` without its content, because every
clip carries a copy of `meta`."""


MAX_SIDECARS_BYTES: Final = 16 << 20
"""Maximum size of all sidecars of one sample together."""


_MAX_NESTING: Final = 100
"""Maximum number of levels of a sidecar's JSON; common readers fail at some hundreds."""


@dataclass(slots=True)
class Sidecars:
    """The sidecars of one video: content by extension, and what could not be read."""

    content: dict[str, bytes] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def caption_and_meta(self) -> tuple[str | None, str | None]:
        """Return the caption (from `txt`, else `caption` or `text` of `json`) and the JSON.

        The JSON object maps each extension to parsed JSON, text, or `{"base64": …}`; it is None if
        it would be empty. It does not repeat the file that holds the caption.
        """
        problems = dict(self.problems)
        meta: dict[str, Any] = {}
        caption: str | None = None
        for extension, data in sorted(self.content.items()):
            value, problem = _parse(extension, data)
            if problem is not None:
                problems[extension] = problem
            if extension == "txt" and isinstance(value, str):
                caption = value.strip()
            else:
                meta[extension] = value
        if not caption:
            caption = _caption_of_json(meta.get("json"))
        if problems:
            meta[PROBLEMS] = dict(sorted(problems.items()))
        text = json.dumps(meta, ensure_ascii=False) if meta else None
        return _printable(caption), _printable(text)


def json_value(value: object) -> Any:
    """Return a value as JSON: dates and the like as text, bytes as base64, NaN as null.

    Raises:
        ValueError: it is nested too deeply.
    """
    if _nests_deeper(value, _MAX_NESTING):
        raise ValueError(f"nested deeper than {_MAX_NESTING} levels")
    return _plain(value)


def _plain(value: object) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _parse(extension: str, data: bytes) -> tuple[Any, str | None]:
    """Return a sidecar's content and its problem, if any."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 at byte {error.start}" if extension in ("txt", "json") else None
        return {"base64": base64.b64encode(data).decode("ascii")}, problem
    if extension != "json":
        return text, None
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return text, f"not JSON: {error}"
    if _nests_deeper(value, _MAX_NESTING):
        return text, f"JSON nested deeper than {_MAX_NESTING} levels"
    return value, None


def _nests_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (levels == 0 or any(_nests_deeper(one, levels - 1) for one in inner))


def _refuse(constant: str) -> None:
    # Python reads and writes NaN and Infinity; the JSON readers of other tools do not.
    raise ValueError(f"{constant} is not JSON")


def _caption_of_json(value: object) -> str | None:
    if isinstance(value, Mapping):
        for name in ("caption", "text"):
            if isinstance(value.get(name), str) and value[name].strip():
                return str(value[name]).strip()
    return None


def _printable(text: str | None) -> str | None:
    """Replace lone surrogates, which JSON can spell and Arrow refuses; empty text is None."""
    return text.encode("utf-8", "replace").decode("utf-8") if text else None
