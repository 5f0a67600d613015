"""JSON that was read, held against the types that it should have. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_NOUNS: Mapping[Any, tuple[str, type | tuple[type, ...]]] = {
    str: ("text", str),
    bool: ("true or false", bool),
    int: ("a whole number", int),
    float: ("a number", (int, float, NoneType)),  # null stands for what is not finite
    NoneType: ("null", NoneType),
    dict: ("an object", dict),
    list: ("a list", list),
}


def misfit(value: Any, expected: Any, key: str = "") -> str:
    """What is wrong with a value, as `key: must be text`; empty where it fits.

    Args:
        value: as JSON gives it.
        expected: a type of `_NOUNS`, `X | Y`, `Mapping[str, X]`, `tuple[X, ...]`, or a dataclass,
            whose fields an object must have, but for those with defaults.
        key: where it stands.
    """
    origin, args = get_origin(expected), get_args(expected)
    if expected is Any:
        return ""
    if origin in (Union, UnionType):
        found = [misfit(value, choice, key) for choice in args]
        return "" if "" in found else found[0]
    if is_dataclass(expected):
        return _plain(value, dict, key) or _of_fields(value, expected, key)
    if origin is tuple:
        return _plain(value, list, key) or _first(enumerate(value), args[0], key)
    if origin is not None:  # Mapping
        return _plain(value, dict, key) or _first(value.items(), args[1], key)
    return _plain(value, expected, key)


def defaults(expected: Any) -> dict[str, Any]:
    """The values that an object of a dataclass may leave out, as JSON has them."""
    plain = {f.name: f.default for f in fields(expected) if f.default is not MISSING}
    made = {
        f.name: f.default_factory() for f in fields(expected) if f.default_factory is not MISSING
    }
    return {key: [] if value == () else value for key, value in (plain | made).items()}


def _plain(value: Any, expected: Any, key: str) -> str:
    noun, types = _NOUNS[expected]
    fits = isinstance(value, types) and (expected is bool or not isinstance(value, bool))
    return "" if fits else _at(key, f"must be {noun}")


def _at(key: str, what: str) -> str:
    return f"{key}: {what}" if key else what


def _first(items: Any, expected: Any, key: str) -> str:
    found = (misfit(item, expected, f"{key}.{name}" if key else str(name)) for name, item in items)
    return next(filter(None, found), "")


_types = cache(get_type_hints)


def _of_fields(value: Mapping[str, Any], expected: Any, key: str) -> str:
    types = _types(expected)
    for field in fields(expected):
        path = f"{key}.{field.name}" if key else field.name
        needed = field.default is MISSING and field.default_factory is MISSING
        if field.name not in value:
            if needed:
                return _at(path, "is missing")
        elif found := misfit(value[field.name], types[field.name], path):
            return found
    return ""
