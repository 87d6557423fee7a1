"""The result of an operation: plain values for programs, lines for a person, and an exit code."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pipeline.errors import BALANCED


class Outcome(ABC):
    """Base of the results that operations return. Subclasses are dataclasses."""

    __slots__ = ()

    @property
    def exit_code(self) -> int:
        """Exit code of the process: 0 unless a subclass finds that something is wrong."""
        return BALANCED

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can represent."""
        values: dict[str, Any] = plain(self)
        return values

    @abstractmethod
    def lines(self) -> list[str]:
        """Return the lines to print."""


def plain(value: Any) -> Any:
    """Return a value as dicts, lists and scalars.

    A dataclass becomes a dict of its fields, except those with `repr=False`. A set becomes a sorted
    list. The keys of a mapping become strings.
    """
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.repr]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def first_of(count: int, shown: Collection[str], indent: str = "  ") -> Iterator[str]:
    """Yield the lines of a list that is cut after its first entries.

    Args:
        count: number of entries of the whole list.
        shown: first entries.
        indent: text before each line.
    """
    for text in shown:
        yield f"{indent}{text}"
    if count > len(shown):
        yield f"{indent}and {count - len(shown)} more"
