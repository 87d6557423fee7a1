"""A configuration from one YAML file and `key=value` overrides, or all that is wrong with it.

Every fault is one line, `where: field = value: rule; fix`, and all are reported together.
`${other.key}` and `${oc.env:NAME}` are resolved by OmegaConf.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
import re
from collections.abc import Sequence
from typing import Final, TypeVar

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `field = value: rule; fix`."""

    field: str
    value: Any = None
    rule: str = ""
    fix: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value}"
        return f"{self.field}{value}: {self.rule}" + (f"; {self.fix}" if self.fix else "")


class YamlFault(ValueError):
    """The text is not YAML; says where."""


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document; keys are strings.

    Raises:
        YamlFault: the text is not YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise YamlFault(f"{line}not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise YamlFault(f"not YAML: {error}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping = super().construct_mapping(node, deep=deep)
        return {str(key): value for key, value in mapping.items()}


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
)


_Loader.yaml_implicit_resolvers = {}


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


COMMAND_LINE: Final = "command line"


_MISSING: Final = object()


Config = TypeVar("Config", bound=BaseModel)


def load(
    path: str | None,
    overrides: Sequence[str],
    model: type[Config],
    check: Callable[[Config], Sequence[Fault]] = lambda _: (),
) -> Config:
    """Read, merge, validate and cross-check a configuration of any kind.

    Args:
        path: a YAML file; None where the command line says everything.
        overrides: `dotted.key=value`; list items by number, values in YAML.
        model: what the values have to be.
        check: returns what is wrong between fields that are right one by one.

    Raises:
        ConfigError: one line per fault.
    """
    settings = _Settings(path, {} if path is None else _read(path, model))
    for override in overrides:
        settings.override(override)
    values = settings.resolve()
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        settings.refuse([_fault(problem, values, model) for problem in error.errors()])
    settings.refuse(check(config))
    return config


class _Settings:
    """Plain nested values, and which of them came from the command line."""

    def __init__(self, path: str | None, values: dict[str, Any]) -> None:
        self._path = COMMAND_LINE if path is None else path
        self._values = values
        self._overridden: list[str] = []

    def override(self, text: str) -> None:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{COMMAND_LINE}: {text}: an override is written key=value")
        try:
            parsed = load_yaml(value)
        except YamlFault:
            parsed = value  # a glob that begins with * is no YAML alias
        self._set(key, parsed)
        self._overridden.append(key)

    def _set(self, key: str, value: Any) -> None:
        *parents, last = key.split(".")
        node: Any = self._values
        walked: list[str] = []
        for part in parents:
            child = _child(node, part)
            walked.append(part)
            if child is None or child is _MISSING:
                child = {}
                _assign(node, part, child, key)
            if not isinstance(child, (dict, list)):
                raise ConfigError(
                    f"{COMMAND_LINE}: {key}: {'.'.join(walked)} is the value {child!r}; it has no"
                    f" key {'.'.join(key.split('.')[len(walked) :])}"
                )
            node = child
        _assign(node, last, value, key)

    def resolve(self) -> Any:
        try:
            return OmegaConf.to_container(OmegaConf.create(self._values), resolve=True)
        except OmegaConfBaseException as error:
            field = getattr(error, "full_key", None)
            where = f"{self._path}: {field}" if field else self._path
            raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error

    def refuse(self, faults: Sequence[Fault]) -> None:
        """Raise one error that names all faults, if there are any."""
        if faults:
            raise ConfigError("\n".join(f"{self._where(f.field)}: {f}" for f in faults))

    def _where(self, field: str) -> str:
        for key in self._overridden:
            if f"{field}.".startswith(f"{key}.") or f"{key}.".startswith(f"{field}."):
                return COMMAND_LINE
        return self._path


def _child(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        return node.get(part, _MISSING)
    return node[int(part)] if part.isdecimal() and int(part) < len(node) else _MISSING


def _assign(node: Any, part: str, value: Any, key: str) -> None:
    if isinstance(node, dict):
        node[part] = value
    elif part.isdecimal() and int(part) < len(node):
        node[int(part)] = value
    else:
        raise ConfigError(
            f"{COMMAND_LINE}: {key}: the list has items 0 to {len(node) - 1}; {part} is none of"
            " them, and items are added in the file"
        )


def _fault(problem: Any, values: Any, model: type[BaseModel]) -> Fault:
    """Say what pydantic found in the words of a person who typed it."""
    loc = tuple(part for part in problem["loc"] if not _is_union_tag(part))
    field = ".".join(str(part) for part in loc)
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return Fault(field, rule="no such key", fix=_suggest(loc, model))
    if kind == "missing":
        return Fault(field, rule="is required", fix="give it a value")
    value = _lookup(values, loc)
    if kind == "literal_error":
        return Fault(field, value, rule=f"must be {context['expected']}")
    if kind == "model_type":
        return Fault(
            field, value, rule="must be a section of keys", fix=_suggest((*loc, ""), model)
        )
    if kind.endswith("_type"):
        value = repr(value)  # shows the quotes that make "8" no number
    rule = problem["msg"].removeprefix("Input ").removeprefix("Value ")
    if kind == "string_pattern_mismatch":
        rule = f"must match {context['pattern']}"
    return Fault(field, value, rule=rule[:1].lower() + rule[1:])


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and re.search(r"[\[(]", part) is not None


def _lookup(values: Any, loc: Sequence[str | int]) -> Any:
    for part in loc:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _suggest(loc: Sequence[str | int], model: type[BaseModel]) -> str:
    """Return what could be meant by the last key of an unknown path."""
    *parents, wrong = [part for part in loc if not isinstance(part, int)]
    section: Any = model
    for part in parents:
        section = _section(section.model_fields[part].annotation)
    known = list(section.model_fields)
    close = difflib.get_close_matches(str(wrong), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    homes = [".".join(path) for path in _paths(model) if path[-1] == wrong]
    return f"did you mean {homes[0]}?" if homes else f"known here: {', '.join(known)}"


def _section(annotation: Any) -> type[BaseModel]:
    item: type[BaseModel] = getattr(annotation, "__args__", (annotation,))[0]
    assert issubclass(item, BaseModel)
    return item


def _paths(section: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (name,)
        kind = getattr(field.annotation, "__args__", (field.annotation,))[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((name, *rest) for rest in _paths(kind))


def _read(path: str, model: type[BaseModel]) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        values = load_yaml(text)
    except YamlFault as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold sections ({', '.join(model.model_fields)})")
    return values
