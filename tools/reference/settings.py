"""Pages of settings, from the JSON Schema of the configuration models and a file of examples."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from pipeline.commands.settings import Kind, schema_of

EXAMPLES: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "examples.yaml").read_text()
)
"""An example value of each setting, by kind of configuration and dotted path."""

INTERPOLATION: Final = {"$ref": "#/$defs/Interpolation"}
"""Rule of a setting that can also be `${…}`."""

FOREIGN: Final = r":|\$\{"
"""Pattern of a model of another package, or an interpolation."""

MANY: Final = 12
"""Number of allowed values above which a page does not list them."""

_BOUNDS: Final = {
    "minimum": "≥ {}",
    "ge": "≥ {}",
    "exclusiveMinimum": "> {}",
    "gt": "> {}",
    "maximum": "≤ {}",
    "le": "≤ {}",
    "exclusiveMaximum": "< {}",
    "lt": "< {}",
    "pattern": "that matches `{}`",
}

INTRODUCTION: Final = """\
# Settings of `{verb}`

`python -m pipeline {verb} {kind}.yaml` reads these settings from YAML. `KEY=VALUE` after the file
overrides a setting. In a key, write the number of an item, counted from 0, where a heading has
`[]`. A value can be `${{other.key}}` for the value of another setting, or `${{oc.env:NAME}}` for an
environment variable. [`{kind}.json`](../schema/{kind}.json) is the JSON Schema for editors.
[The glossary](glossary.md) explains terms such as sample, work unit and code index."""

FINGERPRINT: Final = """\
The *fingerprint* is a hash of everything that changes the tokens. A dataset has one fingerprint.
If a setting is part of it, another value needs another output."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, or the heading of a section of settings.

    Args:
        path: dotted path; empty for the top level. Items of a list have its path and `[]`.
        values: allowed values as text; empty for a section.
        default: default as JSON, or None if the setting is required.
        text: description.
    """

    path: str
    values: str
    default: str | None
    text: str


def settings_of(kind: str) -> list[Setting]:
    """Return the settings of a configuration in the order of the code, sections as headings."""
    schema = schema_of(Kind(kind))
    found = list(_walk(schema, schema.get("$defs", {}), ""))
    sections = next(i for i, setting in enumerate(found) if not setting.values)
    top = found[:sections]
    return found[sections:] + ([Setting("", "", None, ""), *top] if top else [])


def setting_pages() -> dict[str, str]:
    """Return the page of each kind of configuration by the name of its file."""
    return {f"{kind}-settings.md": _page(kind) for kind in Kind}


def _page(kind: str) -> str:
    lines = [INTRODUCTION.format(verb="tokenize" if kind == "job" else kind, kind=kind)]
    if kind == Kind.JOB:
        lines += ["", FINGERPRINT]
    for setting in settings_of(kind):
        section = not setting.values
        heading = f"`{setting.path}`" if setting.path else "Top level"
        lines += ["", f"{'##' if section else '###'} {heading}", ""]
        if not section:
            default = "required" if setting.default is None else f"default `{setting.default}`"
            lines += [f"{setting.values}; {default}", ""]
        if setting.text:
            lines += [setting.text.replace("\n", " "), ""]
        if not section:
            lines += [f"Example: `{_shown(kind, setting.path)}`", ""]
        lines.pop()
    return "\n".join(lines) + "\n"


def example_of(kind: str, path: str) -> Any:
    """Return the example value of a setting of a kind of configuration."""
    same = re.sub(r"^validation\.", "source.", path)  # a source with settings of its own
    return {**EXAMPLES["job"], **EXAMPLES[kind]}[path if path in EXAMPLES[kind] else same]


def _shown(kind: str, path: str) -> str:
    value = {path.rpartition(".")[2]: example_of(kind, path)}
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.strip()[1:-1]


def _walk(node: dict[str, Any], defs: dict[str, Any], path: str) -> Iterator[Setting]:
    """Yield the settings of one section: first its own, then its sections."""
    sections = []
    required = node.get("required", [])
    for name, field in node["properties"].items():
        inner, item = _section(field, defs)
        full = f"{path}{name}"
        if inner is not None:
            sections.append((f"{full}{'[]' if item else ''}", field, inner))
            continue
        empty: Any = {} if field.get("type") == "object" else None
        value = json.dumps(field.get("default", empty), ensure_ascii=False)
        default = None if name in required else value
        yield Setting(full, _values(field, defs), default, field.get("description", ""))
    for full, field, inner in sections:
        text = field.get("description") or inner.get("description", "")
        yield Setting(full, "", None, text)
        yield from _walk(inner, defs, f"{full}.")


def _section(field: dict[str, Any], defs: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """Return the section that a field holds and whether it holds a list of them, or None."""
    for option in field.get("anyOf", [field]):
        if "$ref" in option:
            target = defs[option["$ref"].rpartition("/")[2]]
            if "properties" in target:
                return target, False
        elif option.get("type") == "array":
            found, _ = _section(option.get("items", {}), defs)
            if found is not None:
                return found, True
    return None, False


def _values(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """Return the allowed values of a field as text."""
    if "$ref" in field:
        return _values(defs[field["$ref"].rpartition("/")[2]], defs)
    for options in ("anyOf", "oneOf"):
        if options in field:
            texts = [_values(each, defs) for each in field[options] if each != INTERPOLATION]
            return " or ".join(dict.fromkeys(texts))  # each once
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        if len(values) > MANY:
            return f"one of {len(values)} names, such as {_constant(values[0])}"
        return ", ".join(map(_constant, values))
    if field.get("pattern") == FOREIGN:
        return "`PACKAGE:NAME`"
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_values(field['prefixItems'][0], defs)}"
        return f"list of {_values(field['items'], defs)}"
    names = {"object": "mapping", "null": "`null`", "boolean": "`true`, `false`"}
    bounds = " and ".join(text.format(field[key]) for key, text in _BOUNDS.items() if key in field)
    return f"{names.get(str(kind), str(kind or 'string'))} {bounds}".strip()


def _constant(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
