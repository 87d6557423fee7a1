"""Text and values where they enter: valid Unicode, plain JSON, and one rule of what a caption is.

Lists, sidecars, tars and folders all use these functions, so a value means the same in each.
"""

import base64
import json
import math
import re
from typing import Any, Final

PROBLEMS: Final = "_problems"
"""Key of `meta` whose value maps a sidecar's extension or a list's column to its problem."""


_MAX_NESTING: Final = 100
"""Maximum number of levels of a JSON value; common readers fail at some hundreds."""


_ESCAPED: Final = re.compile(r"\\(?=x[0-9a-f]{2})|[\udc80-\udcff]")


def escaped_name(name: str) -> str:
    r"""Return a name as valid Unicode: each byte that is not UTF-8 as `\xNN`.

    A backslash before `xNN` becomes `\x5c`, so two names never become one; any other name stays as
    it is.

    Args:
        name: text in which lone surrogates stand for bytes, as in `os.fsdecode`.
    """
    escape = lambda found: f"\\x{found[0].encode('utf-8', 'surrogateescape')[0]:02x}"  # noqa: E731
    return valid_text(_ESCAPED.sub(escape, name))


def valid_text(text: str) -> str:
    """Return a text with `?` for half surrogate pairs, which JSON can spell and Arrow refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def decoded(value: object) -> tuple[Any, str | None]:
    """Return bytes as text, or as `{"base64": …}` with the problem if they are not UTF-8.

    Any other value is returned as it is.
    """
    try:
        return value.decode("utf-8-sig") if isinstance(value, bytes) else value, None
    except UnicodeDecodeError as error:
        return json_value(value), f"not UTF-8 at byte {error.start}"


def json_value(value: object, levels: int = _MAX_NESTING) -> Any:
    """Return a value as JSON: dates and the like as text, bytes as base64, NaN as null.

    Raises:
        ValueError: it has more levels.
    """
    if isinstance(value, (dict, list, tuple)) and value and not levels:
        raise ValueError(f"nested deeper than {_MAX_NESTING} levels")
    if isinstance(value, dict):
        return {str(name): json_value(inner, levels - 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner, levels - 1) for inner in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def meta_text(values: dict[str, Any]) -> str | None:
    """Return a JSON object as text, None if it is empty."""
    return valid_text(json.dumps(values, ensure_ascii=False)) if values else None


def texts_within(
    caption: str | None, meta: dict[str, Any], max_kb: int, column: str = "caption"
) -> tuple[str | None, str | None]:
    """Return the caption and the JSON of `meta`, each of at most `max_kb` kB as UTF-8.

    What does not fit is left out, the largest value first, and named with its size under
    `_problems`.

    Args:
        caption: text or None.
        meta: values of JSON; its `_problems` are kept.
        max_kb: `source.max_meta_kb`.
        column: where the caption comes from.
    """
    limit = 1000 * max_kb
    problems = dict(meta.pop(PROBLEMS, {}))

    def leave_out(name: str, size: int) -> None:
        problems[name] = f"{size} bytes, more than source.max_meta_kb = {max_kb} takes; raise it"

    def whole() -> str | None:
        return meta_text({**meta, PROBLEMS: dict(sorted(problems.items()))} if problems else meta)

    if (size := num_bytes(caption)) > limit:
        caption = None
        leave_out(column, size)
    if num_bytes(text := whole()) > limit:
        sizes = {name: num_bytes(meta_text({name: value})) for name, value in meta.items()}
        left = num_bytes(text)
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            del meta[name]
            leave_out(name, sizes[name])
            left += num_bytes(meta_text({name: problems[name]})) - sizes[name]
            if left <= limit and num_bytes(text := whole()) <= limit:
                break
        else:
            problem = f"{len(problems)} problems, more than source.max_meta_kb = {max_kb} takes"
            text = meta_text({PROBLEMS: {"*": problem}})
    return caption, text


def num_bytes(text: str | None) -> int:
    """Return the size of a text as UTF-8; 0 for None."""
    return len(text.encode()) if text is not None else 0


def caption_of(value: object) -> str | None:
    """Return the caption in a JSON value: a text, or the first text of a list.

    An empty text is not a caption, nor is a value of another type.
    """
    texts = value if isinstance(value, list) else [value]
    stripped = (valid_text(text).strip() for text in texts if isinstance(text, str))
    return next(filter(None, stripped), None)
