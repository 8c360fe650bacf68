"""Arithmetic over named results: `2 * 4 * cnn.models.full.params`. A little syntax is evaluated, never code.

A name stands for a tree of mappings and tables (lists of rows). `.key` or `["key"]` goes down a mapping;
on a table it picks the rows that carry the key as an identifier (IDENTIFIERS, in that order), else it is the
column of that name; a table of one row acts as the row. `[0]` picks a row. `sum`, `min`, `max` and `len` take
a column.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from harness.config import nearest
from harness.types import ConfigError

IDENTIFIERS: Final = ("name", "phase", "endpoint", "submodel", "status")
"""Columns of a table whose values pick rows."""
MAX_EXPONENT: Final = 64

Names = Callable[[str], object]

_BINARY: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "sum": sum,
    "min": min,
    "max": max,
    "len": len,
}


def parse(text: str) -> ast.expr:
    """The formula in `text`. Raises ConfigError for what is not one."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{text!r} is not a formula; write for example 2 * a.models.full.params") from None
    for node in ast.walk(tree):
        if not _allowed(node):
            raise ConfigError(
                f"{text!r}: {type(node).__name__} is not allowed; use names, numbers, + - * / **, "
                f"parentheses and {', '.join(_FUNCTIONS)}"
            )
    return tree


def names_in(tree: ast.expr) -> list[str]:
    """The results that a formula asks for."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(names - set(_FUNCTIONS))


def evaluate(text: str, *, names: Names) -> float:
    """The finite number that a formula gives. `names` finds a result. Raises ConfigError."""
    try:
        found = _number(_value(parse(text), names), text)
    except (ZeroDivisionError, OverflowError) as error:
        raise ConfigError(f"{text!r}: {error}") from None
    if not math.isfinite(found):
        raise ConfigError(f"{text!r}: gives {found}")
    return found


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float | str) and not isinstance(node.value, bool)
    if isinstance(node, ast.Call):
        plain = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return plain and len(node.args) == 1 and not node.keywords
    if isinstance(node, ast.Subscript):
        index = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
        return isinstance(index, ast.Constant)
    kinds = (ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.USub, ast.Load, *_BINARY)
    return isinstance(node, kinds)


def _value(node: ast.expr, names: Names) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(id):
            return names(id)
        case ast.Attribute(inner, key):
            return _look_up(_value(inner, names), key)
        case ast.Subscript(inner, index):
            return _look_up(_value(inner, names), cast("int | str", _value(index, names)))
        case ast.UnaryOp(_, inner):
            return -_number(_value(inner, names), ast.unparse(inner))
        case ast.BinOp(left, kind, right):
            a, b = (_number(_value(side, names), ast.unparse(side)) for side in (left, right))
            if isinstance(kind, ast.Pow) and abs(b) > MAX_EXPONENT:
                raise ConfigError(f"{ast.unparse(node)}: exponents go up to {MAX_EXPONENT}")
            return _BINARY[type(kind)](a, b)
        case ast.Call(ast.Name(function), [inner]):
            found = _value(inner, names)
            column = found if isinstance(found, list) else [found]
            return _FUNCTIONS[function]([_number(x, ast.unparse(inner)) for x in column])
    raise AssertionError(f"parse let {ast.dump(node)} through")


def _look_up(tree: object, key: int | str) -> object:
    if isinstance(tree, Mapping):
        if key in tree:
            return tree[key]
        raise ConfigError(f"no {key!r} here{nearest(str(key), [str(k) for k in tree])}")
    if not (isinstance(tree, list) and tree and isinstance(tree[0], Mapping)):
        if isinstance(tree, list) and isinstance(key, int) and -len(tree) <= key < len(tree):
            return tree[key]
        raise ConfigError(f"no {key!r} in {tree!r}"[:160])
    if isinstance(key, int):
        if -len(tree) <= key < len(tree):
            return tree[key]
        raise ConfigError(f"no row {key} in a table of {len(tree)}")
    for column in IDENTIFIERS:
        rows = [row for row in tree if row.get(column) == key]
        if rows:
            return rows
    if all(key in row for row in tree):
        values = [row[key] for row in tree]
        return values[0] if len(values) == 1 else values
    known = {str(row[column]) for row in tree for column in IDENTIFIERS if column in row} | set(tree[0])
    raise ConfigError(f"no {key!r} in this table{nearest(key, sorted(known))}")


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = f"a column of {len(value)}" if isinstance(value, list) else repr(value)
        raise ConfigError(f"{where!r} is {what}, not a number; take one row, one column, or their sum(...)")
    return value
