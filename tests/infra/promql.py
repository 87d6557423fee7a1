"""Enough of PromQL to find typing errors: brackets, functions, and the series that are meant.

It is not a parser of the language: it accepts some expressions that Prometheus does not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"[^"]*") | (?P<range>\[\d+[smhd]\]) | (?P<number>\d+(?:\.\d+)?)
    | (?P<name>[a-zA-Z_:][\w:]*) | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/><=,(){}])
    )""",
    re.VERBOSE,
)
_FUNCTIONS = {"rate", "increase", "label_values"}
_AGGREGATIONS = {"sum", "max", "min", "avg", "count"}
_GROUPINGS = {"by", "without", "on", "ignoring"}
_OPERATORS = {"and", "or", "unless", "bool"}


@dataclass
class Selector:
    """One metric with its matchers, and whether it is a range."""

    metric: str
    matchers: dict[str, str] = field(default_factory=dict)
    is_range: bool = False


@dataclass
class Expression:
    selectors: list[Selector] = field(default_factory=list)
    groupings: set[str] = field(default_factory=set)
    """Labels in `by`, `without`, `on` and `ignoring`."""


def read(text: str) -> Expression:
    """Return what an expression refers to.

    Raises:
        ValueError: it cannot be PromQL.
    """
    tokens = list(_tokens(text))
    found = Expression()
    stack: list[str] = []
    at = 0
    while at < len(tokens):
        kind, token = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if token in ("(", "{"):
            stack.append(token)
        elif token in (")", "}"):
            if not stack or stack.pop() + token not in ("()", "{}"):
                raise ValueError(f"{token} closes nothing: {text}")
        elif kind == "range":
            if not found.selectors:
                raise ValueError(f"{token} of nothing: {text}")
            found.selectors[-1].is_range = True
        elif kind == "name" and token in _GROUPINGS:
            names, at = _list(tokens, at, text)
            found.groupings.update(names)
        elif kind == "name" and token in _FUNCTIONS | _AGGREGATIONS:
            if following not in ("(", "by", "without"):
                raise ValueError(f"{token} of nothing: {text}")
        elif kind == "name" and stack[-1:] == ["{"]:
            (_, operator), (value_kind, value) = tokens[at : at + 2]
            if operator not in ("=", "=~", "!=", "!~") or value_kind != "string":
                raise ValueError(f"{token} {operator} {value} is not a matcher: {text}")
            found.selectors[-1].matchers[token] = value.strip('"')
            at += 2
        elif kind == "name" and token not in _OPERATORS:
            if following == "(":
                raise ValueError(f"{token} is not a known function: {text}")
            found.selectors.append(Selector(token))
    if stack:
        raise ValueError(f"{stack[-1]} is not closed: {text}")
    return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    text, at = text.strip(), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:]!r} is not PromQL")
        at = match.end()
        kind = match.lastgroup or ""
        yield kind, match[kind]


def _list(tokens: list[tuple[str, str]], at: int, text: str) -> tuple[list[str], int]:
    """Return the names of a list in parentheses, and where it ends."""
    end = next((n for n in range(at, len(tokens)) if tokens[n][1] == ")"), None)
    if end is None or tokens[at][1] != "(":
        raise ValueError(f"labels without parentheses: {text}")
    return [token for kind, token in tokens[at:end] if kind == "name"], end + 1
