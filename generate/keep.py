"""A small language for which pairs to keep: `agreement > 0.6 and density < 0.2 and not copied`.

In: an expression of comparisons, `and`, `or`, `not`, parentheses, numbers and names of measures.
Out: a `Keep`, which says of a pair's scores whether it is kept and, if not, by which of its
conditions. The text is parsed, never run: whatever is not in the list above is refused.
"""

from __future__ import annotations

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from univg.errors import ConfigError

Value = float | int | bool | None
Kind = Literal["number", "flag"]

STAGE = "generate check"
LONGEST = 1000  # also bounds how deep it can nest
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_LANGUAGE = "comparisons (< <= > >= == !=), and, or, not, parentheses, numbers and measures"


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A checked expression; an empty one keeps all."""

    text: str
    conditions: tuple[str, ...]
    """What its outermost `and` joins, each as it was written."""
    names: tuple[str, ...]
    """The measures it asks for, sorted."""
    _trees: tuple[ast.expr, ...]

    def accepts(self, scores: Mapping[str, Value]) -> bool:
        """Whether a pair of these scores is kept; what was not measured meets no condition."""
        return all(_value(tree, scores) is True for tree in self._trees)

    def failed(self, scores: Mapping[str, Value]) -> list[str]:
        """Return the conditions that these scores do not meet."""
        return [
            text
            for text, tree in zip(self.conditions, self._trees, strict=True)
            if _value(tree, scores) is not True
        ]


def parse_keep(text: str, measures: Mapping[str, Kind]) -> Keep:
    """Return the expression `text` over `measures`, or say what is wrong with it in one line."""
    if not text.strip():
        return Keep(text="", conditions=(), names=(), _trees=())
    tree = _parse(text, measures)
    kind = _check(tree, text, measures)
    if kind != "flag":
        raise _refuse(text, f"`{_source(tree, text)}` is a number; compare it, as in `… > 0.5`")
    joined = (
        tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    )
    return Keep(
        text=" ".join(text.split()),
        conditions=tuple(_source(each, text) for each in joined),
        names=tuple(sorted({n.id for n in ast.walk(tree) if isinstance(n, ast.Name)})),
        _trees=tuple(joined),
    )


def _parse(text: str, measures: Mapping[str, Kind]) -> ast.expr:
    if len(text) > LONGEST:
        raise ConfigError(f"keep has {len(text)} characters; at most {LONGEST} are read")
    # In brackets, so that a long expression may go over several lines of a YAML file.
    bracketed = f"({text}\n)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `1and x`: Python only warns
            return ast.parse(bracketed, mode="eval").body
    except (SyntaxError, Warning) as error:
        hint = "write == for equal" if _has_single_equals(text) else f"it may hold {_LANGUAGE}"
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _refuse(text, f"cannot be read ({reason}); {hint}", measures) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _refuse(text, "cannot be read: too deep, or with a null character") from error


def _has_single_equals(text: str) -> bool:
    rest = text
    for double in ("==", "<=", ">=", "!="):
        rest = rest.replace(double, "")
    return "=" in rest


def _check(node: ast.expr, text: str, measures: Mapping[str, Kind]) -> Kind:
    """Return whether `node` is a number or a flag; whatever is neither is refused."""
    match node:
        case ast.Name(id=name):
            if name not in measures:
                near = difflib.get_close_matches(name, measures, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise _refuse(text, f"{name!r} is no measure; {hint}".rstrip("; "), measures)
            return measures[name]
        case ast.Constant(value=bool()):
            return "flag"
        case ast.Constant(value=int() | float()):
            return "number"
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            if not isinstance(value, bool):
                return "number"
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return _require_flags([inner], text, measures)
        case ast.BoolOp(values=values):
            return _require_flags(values, text, measures)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            if all(type(op) in _COMPARISONS for op in ops):
                return _check_comparison([left, *rest], ops, text, measures)
    raise _refuse(text, f"`{_source(node, text)}` is not allowed: only {_LANGUAGE}", measures)


def _require_flags(
    nodes: Sequence[ast.expr], text: str, measures: Mapping[str, Kind]
) -> Literal["flag"]:
    for node in nodes:
        if _check(node, text, measures) != "flag":
            shown = _source(node, text)
            raise _refuse(text, f"`{shown}` is a number; compare it, as in `{shown} > 0.5`")
    return "flag"


def _check_comparison(
    nodes: Sequence[ast.expr], ops: Sequence[ast.cmpop], text: str, measures: Mapping[str, Kind]
) -> Literal["flag"]:
    kinds = [_check(node, text, measures) for node in nodes]
    equality = all(isinstance(op, ast.Eq | ast.NotEq) for op in ops)
    if len(set(kinds)) > 1 or ("flag" in kinds and not equality):
        flag = _source(nodes[kinds.index("flag")], text)
        raise _refuse(text, f"`{flag}` is yes or no; write `{flag}` or `not {flag}` without a sign")
    return "flag"


def _value(node: ast.expr, scores: Mapping[str, Value]) -> Value:
    """Return the value of a checked node; None, unknown, where a measure is missing."""
    match node:
        case ast.Name(id=name):
            return scores.get(name)
        case ast.Constant(value=bool() | int() | float() as constant):
            return constant
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = _value(inner, scores)
            return None if value is None else -value
        case ast.UnaryOp(operand=inner):
            value = _value(inner, scores)
            return None if value is None else not value
        case ast.BoolOp(op=op, values=values):
            found = [_value(each, scores) for each in values]
            decisive = isinstance(op, ast.Or)  # one True settles an `or`, one False an `and`
            if any(each is decisive for each in found):
                return decisive
            return None if None in found else not decisive
        case ast.Compare(left=left, ops=ops, comparators=rest):
            chain = [_value(each, scores) for each in (left, *rest)]
            links = [
                None if a is None or b is None else _COMPARISONS[type(op)](a, b)
                for op, a, b in zip(ops, chain[:-1], chain[1:], strict=True)
            ]
            return False if False in links else None if None in links else True
    raise AssertionError(f"{ast.dump(node)} was not checked")


def _source(node: ast.expr, text: str) -> str:
    found = ast.get_source_segment(f"({text}\n)", node) or ast.unparse(node)
    return " ".join(found.split())


def _refuse(text: str, reason: str, measures: Mapping[str, Kind] | None = None) -> ConfigError:
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 120 else f"{shown[:117]}…"
    names = f"; measures: {', '.join(measures)}" if measures else ""
    return ConfigError(f"keep is {shown!r}: {reason}{names}")
