"""Load a configuration from one YAML file and `key=value` overrides, or report all its errors.

Each error is one line, `where: field = value: rule; fix`; `where` is the file or `command line`.
All errors are reported together. OmegaConf reads the YAML, sets the overrides and resolves
`${other.key}` and `${oc.env:NAME}`; pydantic checks the values.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import ConfigError

COMMAND_LINE: Final = "command line"


@dataclass(frozen=True, slots=True)
class Fault:
    """One error in a configuration; as text `field = value: rule; fix`."""

    field: str
    """Dotted path of the field."""
    value: Any = None
    """Value of the field. None is not shown."""
    rule: str = ""
    """Rule that the value breaks."""
    fix: str = ""
    """Action that repairs it."""

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value}"
        return f"{self.field}{value}: {self.rule}" + (f"; {self.fix}" if self.fix else "")


Config = TypeVar("Config", bound=BaseModel)


def load(
    path: str | None,
    overrides: Sequence[str],
    model: type[Config],
    check: Callable[[Config], Sequence[Fault]] = lambda _: (),
) -> Config:
    """Read, merge, validate and cross-check a configuration of any kind.

    Args:
        path: a YAML file; None if all values are overrides.
        overrides: `dotted.key=value`, with the value in YAML. A number selects an item of a list.
        model: class of the configuration.
        check: returns the rules broken between fields that are valid one by one.

    Raises:
        ConfigError: the configuration is wrong; the text has one line per error.
    """
    values = OmegaConf.create({}) if path is None else _read(path, model)
    overridden = [_override(values, text) for text in overrides]

    def where(field: str) -> str:
        return COMMAND_LINE if path is None or _is_set_by(overridden, field) else path

    try:
        plain = OmegaConf.to_container(values, resolve=True)
    except OmegaConfBaseException as error:
        field = getattr(error, "full_key", None) or ""
        raise ConfigError(f"{where(field)}: {field}: {_first_line(error)}") from error
    try:
        config = model.model_validate(plain)
        faults = check(config)
    except ValidationError as error:
        faults = [_fault(problem, plain, model) for problem in error.errors()]
    if not faults:
        return config
    raise ConfigError("\n".join(f"{where(fault.field)}: {fault}" for fault in faults))


def _read(path: str, model: type[BaseModel]) -> DictConfig:
    try:
        values = OmegaConf.load(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(
            f"{path}: {line}not YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path}: must hold sections ({', '.join(_fields(model))})")
    return values


def _override(values: DictConfig, text: str) -> str:
    """Set one `key=value`, and return its key."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{COMMAND_LINE}: {text}: an override must have the form key=value")
    try:
        try:
            parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
        except yaml.YAMLError:
            parsed = value  # for example a glob that starts with *, which is an alias in YAML
        OmegaConf.update(values, key, parsed, merge=False)
    except (IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{COMMAND_LINE}: {key}: no such item ({_first_line(error)}); use the number of an"
            " existing item, from 0, and add items in the file"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{COMMAND_LINE}: {key}: {_first_line(error)}") from error
    return key


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_set_by(keys: Sequence[str], field: str) -> bool:
    """Return whether one of the keys is the field, a section around it, or a part of it."""
    return any(
        f"{field}.".startswith(f"{key}.") or f"{key}.".startswith(f"{field}.") for key in keys
    )


def _fault(problem: Any, values: Any, model: type[BaseModel]) -> Fault:
    """Return an error that pydantic found, in the terms of the configuration file."""
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
        return Fault(field, value, "must be a section of keys", _suggest((*loc, ""), model))
    if kind.endswith("_type"):
        value = repr(value)  # the quotes show that "8" is a string
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
    """Return the known key that resembles the last key of a path, or all known keys."""
    *parents, wrong = [part for part in loc if not isinstance(part, int)]
    section: Any = model
    for part in parents:
        section = _section(_fields(section)[part].annotation)
    known = list(_fields(section))
    close = difflib.get_close_matches(str(wrong), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    homes = [".".join(path) for path in _paths(model) if path[-1] == wrong]
    return f"did you mean {homes[0]}?" if homes else f"known here: {', '.join(known)}"


def _fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by the names that a file uses."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, alone or as items of a list; None if it holds none."""
    item = getattr(annotation, "__args__", (annotation,))[0]
    return item if isinstance(item, type) and issubclass(item, BaseModel) else None


def _paths(section: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in _fields(section).items():
        yield (name,)
        if inner := _section(field.annotation):
            yield from ((name, *rest) for rest in _paths(inner))
