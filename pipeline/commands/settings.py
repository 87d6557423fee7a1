"""Kinds of settings: which class each has, and how a shell completes `KEY=VALUE`.

A shell asks at every Tab, so nothing here imports torch, Ray or PyAV.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from importlib import import_module
from typing import Any, Final

import typer
from pydantic import BaseModel

Completion = Callable[[typer.Context, str], list[str]]
"""Function that returns the words that can replace an incomplete one."""


class Kind(StrEnum):
    """A kind of settings, by the verb that reads it; `job` is for `tokenize` and `plan`."""

    JOB = "job"
    EMBED = "embed"
    TRAIN = "train"
    EVALUATE = "evaluate"


_CLASSES: Final = {
    Kind.JOB: ("pipeline.config.job", "JobConfig"),
    Kind.EMBED: ("pipeline.config.embed", "EmbedConfig"),
    Kind.TRAIN: ("pipeline.training.config", "TrainConfig"),
    Kind.EVALUATE: ("pipeline.evaluation.config", "EvaluationConfig"),
}


def settings_class(kind: Kind) -> type[BaseModel]:
    """Return the class of a kind of settings."""
    module, name = _CLASSES[kind]
    found: type[BaseModel] = getattr(import_module(module), name)
    return found


def schema_of(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of a kind of settings."""
    from pipeline.config.json_schema import json_schema

    return json_schema(settings_class(kind))


def completes(words: Iterable[str]) -> Completion:
    """Return the completion of one of some words."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def completes_settings(kind: Kind) -> Completion:
    """Return the completion of `KEY=VALUE`: the settings, and the values of those with a choice."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        leaves = _leaves(schema_of(kind))
        given = [values for values in ctx.params.values() if isinstance(values, list | tuple)]
        before = [word for words in given for word in words if word != "="]
        key, equals, value = incomplete.partition("=")
        front = f"{key}="
        if before and _INDEX.sub(".0.", before[-1]) in leaves:
            # bash takes KEY, = and VALUE for three words
            key, equals, value, front = before[-1], "=", incomplete, ""
        if not equals:
            return list(_settings(leaves, key))
        choices = leaves.get(_INDEX.sub(".0.", key), ())
        return [f"{front}{choice}" for choice in choices if choice.startswith(value)]

    return complete


_INDEX: Final = re.compile(r"\.\d+\.")
"""Number of an item of a list, in the path of a setting."""


def _settings(leaves: Mapping[str, Sequence[str]], begun: str) -> Iterator[str]:
    """Yield `KEY=` or `KEY=VALUE` for each setting whose path begins so."""
    wanted = _INDEX.sub(".0.", begun)
    for path, choices in leaves.items():
        if path.startswith(wanted):
            name = begun + path[len(wanted) :]
            yield from (f"{name}={choice}" for choice in choices or ("",))


def _leaves(schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the choices of each setting by its path; a setting without a choice has none."""
    found: dict[str, list[str]] = {}

    def walk(node: Mapping[str, Any], path: str) -> None:
        if reference := node.get("$ref"):
            name = reference.rpartition("/")[2]
            if name != "Interpolation":
                walk(schema["$defs"][name], path)
        elif "properties" in node:
            found.pop(path, None)
            for name, inner in node["properties"].items():
                walk(inner, f"{path}.{name}" if path else name)
        elif rules := node.get("anyOf", node.get("oneOf")):
            found.setdefault(path, [])
            for rule in rules:
                walk(rule, path)
        elif "items" in node and "$ref" in node["items"]:
            walk(node["items"], f"{path}.0")
        else:
            values = [True, False] if node.get("type") == "boolean" else node.get("enum", [])
            choices = found.setdefault(path, [])
            choices += [v if isinstance(v, str) else json.dumps(v) for v in values]

    walk(schema, "")
    return found
