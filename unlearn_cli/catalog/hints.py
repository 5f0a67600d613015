"""Types of options as they stand in the source: read, printed and checked without importing.

An annotation is an `ast` expression here. What is understood: the plain types, `|`, `Optional`,
`Union`, `Literal`, sequences, `dict[str, X]`, and `Annotated` with the bounds of annotated_types
or pydantic's `Field`. Anything else raises `NotUnderstood` and is checked when the plugin is
imported.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unlearn_cli.catalog.model import Kind


class NotUnderstood(Exception):  # noqa: N818 - it is not an error: the check happens later
    """The annotation says more than can be known without importing its module."""


_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("> {}", operator.gt),
    "ge": (">= {}", operator.ge),
    "lt": ("< {}", operator.lt),
    "le": ("<= {}", operator.le),
    "min_length": ("at least {} long", lambda value, bound: len(value) >= bound),
    "max_length": ("at most {} long", lambda value, bound: len(value) <= bound),
}
_POSITIONAL = {
    "Gt": ("gt",),
    "Ge": ("ge",),
    "Lt": ("lt",),
    "Le": ("le",),
    "MinLen": ("min_length",),
    "MaxLen": ("max_length",),
    "Len": ("min_length", "max_length"),
    "Interval": (),
    "Field": (),
}
_SEQUENCES = {"list", "tuple", "set", "frozenset", "Sequence"}


def _is_float(value: object) -> bool:
    """TOML writes a whole number without a point, so an integer is a float too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


_NAMES: Mapping[str, Kind] = {"MetricName": "metric", "EvaluatorName": "evaluator"}
_STRINGS = {"Location": "path or hub id", **_NAMES}
"""Strings of a kind of their own (`unlearn_cli.api`), in words."""
_PLAIN: dict[str, Callable[[object], bool]] = {
    "None": lambda value: value is None,
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_float,
    "str": lambda value: isinstance(value, str),
    "Path": lambda value: isinstance(value, str),
    **dict.fromkeys(_STRINGS, lambda value: isinstance(value, str)),
    "dict": lambda value: isinstance(value, Mapping),
    "Mapping": lambda value: isinstance(value, Mapping),
    "Any": lambda value: True,
    "object": lambda value: True,
} | dict.fromkeys(_SEQUENCES, _is_list)


def fits(annotation: ast.expr, value: object) -> bool:
    """Whether a value out of TOML fits the annotation; raises `NotUnderstood`."""
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Name() | ast.Attribute():
            return _fits_plain(_name(annotation), value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(left, value) or fits(right, value)
        case ast.Subscript(value=generic):
            return _fits_generic(_name(generic), _arguments(annotation), value)
    raise NotUnderstood(ast.unparse(annotation))


def describe(annotation: ast.expr) -> str:
    """The annotation for people: `float > 0`, `"nll" | "kl" | None`."""
    match annotation:
        case ast.Name() | ast.Attribute() if _name(annotation) in _STRINGS:
            return _STRINGS[_name(annotation)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{describe(left)} | {describe(right)}"
        case ast.Subscript(value=generic):
            return _describe_generic(_name(generic), _arguments(annotation), annotation)
    return ast.unparse(annotation)


def choices(annotation: ast.expr) -> list[str]:
    """All strings that some `Literal` within the annotation allows."""
    subscripts = (node for node in ast.walk(annotation) if isinstance(node, ast.Subscript))
    literals = (node for node in subscripts if _name(node.value) == "Literal")
    values = (value for node in literals for value in _arguments(node))
    constants = (value.value for value in values if isinstance(value, ast.Constant))
    return [constant for constant in constants if isinstance(constant, str)]


def mentions(annotation: ast.expr, name: str) -> bool:
    """Whether the name stands anywhere in the annotation."""
    nodes = ast.walk(annotation)
    return any(_name(n) == name for n in nodes if isinstance(n, ast.Name | ast.Attribute))


def named(annotation: ast.expr) -> Kind | None:
    """The kind of plugin that a value of the annotation names."""
    return next((kind for name, kind in _NAMES.items() if mentions(annotation, name)), None)


def _name(node: ast.expr) -> str:
    """`Literal` of both `Literal` and `typing.Literal`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _arguments(node: ast.Subscript) -> list[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def _fits_plain(name: str, value: object) -> bool:
    if name not in _PLAIN:
        raise NotUnderstood(name)
    return _PLAIN[name](value)


def _fits_generic(name: str, arguments: list[ast.expr], value: object) -> bool:
    match name:
        case "Annotated":
            return fits(arguments[0], value) and _within(arguments[1:], value)
        case "Optional":
            return value is None or fits(arguments[0], value)
        case "Union":
            return any(fits(argument, value) for argument in arguments)
        case "Literal":
            return any(_same(_literal(argument), value) for argument in arguments)
        case "dict" | "Mapping" if isinstance(value, Mapping):
            return all(fits(arguments[1], item) for item in value.values())
        case "tuple" if _is_list(value):
            return _fits_tuple(arguments, value)  # type: ignore[arg-type]
        case _ if name in _SEQUENCES and _is_list(value):
            return all(fits(arguments[0], item) for item in value)  # type: ignore[attr-defined]
    return _fits_plain(name, value)


def _fits_tuple(arguments: list[ast.expr], value: Sequence[object]) -> bool:
    """`tuple[X, ...]` is of any length, `tuple[X, Y]` of two."""
    match arguments:
        case [item, ast.Constant(value=ellipsis)] if ellipsis is ...:
            return all(fits(item, element) for element in value)
    return len(arguments) == len(value) and all(map(fits, arguments, value))


def _same(allowed: object, value: object) -> bool:
    """Equal and of one type: `1` is not `True`."""
    return type(allowed) is type(value) and allowed == value


def _within(metadata: list[ast.expr], value: Any) -> bool:
    return all(_BOUNDS[bound][1](value, limit) for bound, limit in _bounds(metadata))


def _bounds(metadata: list[ast.expr]) -> Iterator[tuple[str, Any]]:
    """(name of the bound, limit), e.g. ("gt", 0), of `Gt(0)`; other metadata says nothing."""
    for node in metadata:
        if isinstance(node, ast.Call) and _name(node.func) in _POSITIONAL:
            keywords = ((keyword.arg or "", keyword.value) for keyword in node.keywords)
            positional = zip(_POSITIONAL[_name(node.func)], node.args, strict=False)
            for bound, limit in [*positional, *keywords]:
                if bound in _BOUNDS:
                    yield bound, _literal(limit)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise NotUnderstood(ast.unparse(node)) from error


def _describe_generic(name: str, arguments: list[ast.expr], whole: ast.Subscript) -> str:
    match name:
        case "Annotated":
            return " ".join([describe(arguments[0]), _describe_bounds(arguments[1:])]).rstrip()
        case "Optional":
            return f"{describe(arguments[0])} | None"
        case "Union":
            return " | ".join(map(describe, arguments))
        case "Literal":
            return " | ".join(ast.unparse(argument).replace("'", '"') for argument in arguments)
    return f"{ast.unparse(whole.value)}[{', '.join(map(describe, arguments))}]"


def _describe_bounds(metadata: list[ast.expr]) -> str:
    try:
        return ", ".join(_BOUNDS[bound][0].format(limit) for bound, limit in _bounds(metadata))
    except NotUnderstood:
        return ""
