"""The language of `clip.filter`: a condition on the numbers of a clip.

    motion > 0.5 and border < 0.02 and (source_height >= 480 or contrast > 0.1)

It is a subset of Python's expressions: names of numbers, numbers, comparisons, `and`, `or`, `not`,
`+ - * / **`, `abs`, `min`, `max`. An expression is checked when it is read, so that one that is
accepted means something for every clip. simpleeval computes it.

Each part that a top-level `and` joins is a rule. A clip is dropped by the first rule that it does
not meet. A rule that cannot be computed for a clip (division by zero, a null or a value that is not
finite) drops it too, under a name of its own: `motion / luma > 2 (undefined)`.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal

import simpleeval

from pipeline.config.job import MEASURES
from pipeline.dataset.side_columns import clip_columns
from pipeline.errors import ConfigError
from pipeline.records import Clip

CLIP_NUMBERS: Final = (
    "start_s",
    "end_s",
    "source_fps",
    "source_height",
    "source_width",
    "num_frames",
    "padded_frames",
)
"""Fields of a `Clip` that a filter can use."""

ALLOWED: Final = "use comparisons, and, or, not, + - * / **, abs, min, max, numbers and names"

_LONGEST: Final = 500
"""Maximum number of characters of an expression as Python writes it."""

_DEEPEST: Final = 50
"""Maximum depth of an expression: how often its parts contain one another."""

Kind = Literal["number", "condition"]


def _finite(compute: Callable[..., float]) -> Callable[..., float]:
    """Return an operator that raises `ArithmeticError` instead of returning NaN or infinity."""

    def checked(*values: float) -> float:
        result = compute(*map(float, values))
        if not math.isfinite(result):
            raise ArithmeticError("not finite")
        return result

    return checked


_ARITHMETIC: Final[dict[type[ast.AST], Callable[..., float]]] = {
    ast.Add: _finite(operator.add),
    ast.Sub: _finite(operator.sub),
    ast.Mult: _finite(operator.mul),
    ast.Div: _finite(operator.truediv),
    ast.Pow: _finite(math.pow),
    ast.USub: _finite(operator.neg),
    ast.UAdd: _finite(operator.pos),
}

_COMPARISONS: Final[dict[type[ast.AST], Callable[..., bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

_FUNCTIONS: Final[dict[str, Callable[..., float]]] = {"abs": abs, "min": min, "max": max}


class FilterError(ConfigError):
    """An expression is not a filter; the text says why and what is allowed."""


class ClipFilter:
    """A checked expression. One without text keeps every clip.

    Args:
        text: the expression; None or empty for none.
        names: names of the numbers that it can use.

    Attributes:
        rules: the parts that a top-level `and` joins, in order.

    Raises:
        FilterError: it is not a condition on these names.
    """

    def __init__(self, text: str | None, names: Collection[str]) -> None:
        nodes = _parsed(text, names) if text else []
        self._nodes = {ast.unparse(node): node for node in nodes}
        self.rules = tuple(self._nodes)
        operators = {**_ARITHMETIC, **_COMPARISONS, ast.Not: operator.not_}
        self._evaluator = simpleeval.SimpleEval(operators, _FUNCTIONS, {})

    def dropping(self, clip: Clip) -> str:
        """Return the rule that drops a clip, or an empty text if it is kept."""
        if not self.rules:
            return ""
        values = {name: getattr(clip, name) for name in CLIP_NUMBERS} | clip.side
        return self.dropping_values(values)

    def dropping_values(self, values: Mapping[str, Any]) -> str:
        """Return the rule that drops a clip with these numbers, or an empty text."""
        self._evaluator.names = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for rule, node in self._nodes.items():
            try:
                if not self._evaluator.eval(rule, node):
                    return rule
            except (ArithmeticError, ValueError, simpleeval.InvalidExpression):
                return f"{rule} (undefined)"
        return ""


def open_filter(clip: Mapping[str, Any]) -> ClipFilter:
    """Return the filter of a job.

    Args:
        clip: the dataset's `identity.clip`, from `ClipConfig.identity`.

    Raises:
        FilterError: the expression is not a filter.
    """
    numbers = [column.name for column in clip_columns(clip) if column.name != "phash"]
    return ClipFilter(clip.get("filter"), (*CLIP_NUMBERS, *numbers))


def _parsed(text: str, names: Collection[str]) -> list[ast.expr]:
    """Return the rules of an expression."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        plain = ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise FilterError(f"cannot be read: {why}; {ALLOWED}") from None
    if len(plain) > _LONGEST:
        raise FilterError(f"has {len(plain)} characters; use at most {_LONGEST}")
    if _kind(tree, names) != "condition":
        raise FilterError(f"gives a number; compare it, as in `{plain} > 0.5`")
    return tree.values if _is_and(tree) else [tree]  # type: ignore[attr-defined]


def _is_and(node: ast.expr) -> bool:
    return isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)


def _kind(node: ast.expr, names: Collection[str], depth: int = 0) -> Kind:
    """Return what a node gives; raise for all that the language does not have."""
    if depth > _DEEPEST:
        raise FilterError(f"is nested too deeply; use at most {_DEEPEST} levels")

    def parts(kind: Kind, *nodes: ast.expr) -> None:
        for part in nodes:
            if _kind(part, names, depth + 1) != kind:
                rule = f"`{ast.unparse(part)}` must be a {kind} in `{ast.unparse(node)}`"
                raise FilterError(f"{rule}; {ALLOWED}")

    match node:
        case ast.BoolOp(values=values):
            parts("condition", *values)
            return "condition"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            parts("condition", operand)
            return "condition"
        case ast.Compare(left=left, ops=ops, comparators=others) if _known(ops, _COMPARISONS):
            parts("number", left, *others)
            return "condition"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            parts("number", left, right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _ARITHMETIC:
            parts("number", operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and (
            len(args) == 1 if name == "abs" else len(args) > 1
        ):
            parts("number", *args)
        case ast.Name(id=name):
            _check_name(name, names)
        case ast.Constant(value=value) if type(value) in (int, float) and abs(value) < 1e300:
            pass
        case _:
            raise FilterError(f"`{ast.unparse(node)}` is not allowed; {ALLOWED}")
    return "number"


def _known(ops: list[ast.cmpop], allowed: Collection[type[ast.AST]]) -> bool:
    return all(type(op) in allowed for op in ops)


def _check_name(name: str, names: Collection[str]) -> None:
    if name in names:
        return
    if name == "phash":
        raise FilterError("`phash` is a hash and not a quantity; leave it out")
    if name in MEASURES:
        raise FilterError(f"`{name}` is not measured; add {name} to clip.measure")
    raise FilterError(f"`{name}` is not a number of a clip; use some of {', '.join(names)}")
