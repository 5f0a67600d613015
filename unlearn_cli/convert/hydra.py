"""The values of Hydra's overrides: `1e-5`, `true`, `null`, `'text'`, `[a,b]`, `{k: v}`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

_WORDS: dict[str, Value] = {"null": None, "~": None, "true": True, "false": False, "": ""}
_INTEGER = re.compile(r"[-+]?\d+(_\d+)*")
_REAL = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_ENDS = {"[": "]", "{": "}"}
_DEEPEST = 20


def parse_value(text: str, depth: int = 0) -> Value:
    """The value that a text stands for; what is none of the others is the text itself.

    Raises ValueError for brackets or quotes that do not close.
    """
    text = text.strip()
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if quoted := _QUOTED.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", quoted[2], flags=re.DOTALL)
    if text[0] in _ENDS:
        return _collection(text, depth)
    return _number(text)


def split_top(text: str, separator: str = ",") -> list[str]:
    """The parts between separators that stand in no brackets and no quotes.

    Raises ValueError where brackets or quotes do not close.
    """
    parts, open_, start = [], [], 0
    for position, char in _unquoted(text):
        if char in _ENDS:
            open_.append(_ENDS[char])
        elif char in _ENDS.values():
            if not open_ or open_.pop() != char:
                raise ValueError(f"a {char!r} closes nothing")
        elif char == separator and not open_:
            parts.append(text[start:position])
            start = position + 1
    if open_:
        raise ValueError(f"a {open_[-1]!r} is missing")
    return [*parts, text[start:]]


def _unquoted(text: str) -> Iterator[tuple[int, str]]:
    position = 0
    while position < len(text):
        char = text[position]
        if char in "'\"":
            quoted = _QUOTED.match(text, position)
            if quoted is None:
                raise ValueError(f"a quote {char} does not close")
            position = quoted.end()
        else:
            yield position, char
            position += 1


def _collection(text: str, depth: int) -> Value:
    if text[-1] != _ENDS[text[0]]:
        raise ValueError(f"a {_ENDS[text[0]]!r} is missing")
    items = [item for item in split_top(text[1:-1]) if item.strip()]
    if text[0] == "[":
        return [parse_value(item, depth + 1) for item in items]
    pairs = [item.partition(":") for item in items]
    return {key.strip().strip("'\""): parse_value(value, depth + 1) for key, _, value in pairs}


def _number(text: str) -> Value:
    if _INTEGER.fullmatch(text) and len(text) < 100:
        return int(text)
    return float(text) if _REAL.fullmatch(text) else text
