"""Damage: what disks, editors, exports and people do to a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import strategies as st

ODD = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\xe2\x80\xa8", b"\xc3\x28", b"\x1b[2J",
    b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\\ud800", b"\\u0000", b"\"", b"'", b"{", b"}", b"[",
    b"]", b"[[", b",", b"=", b"\t", b"#", b"\\", b"..", b"../" * 40,
)  # fmt: skip
TOKENS = (
    b"0", b"-1", b"1e999", b"-0.0", b"nan", b"inf", b"NaN", b"Infinity", b"null", b"true", b"[]",
    b"{}", b'""', b'" "', b"[[]]", b"9" * 5000, b"99999999999999999999", b"0x1F", b"1_000",
    b"1979-05-27T07:32:00Z", b"07:32:00", b'"\\ud800"', b'"\\u0000"', b'"' + b"k" * 5000 + b'"',
    b"[" * 5000, b"[" * 200 + b"]" * 200, b'{"a":' * 5000, b'["a", 1, null]', b"'", b'"""',
    b"{a = 1}", b"[{}]", b'"../../x"', b'"~nobody/x"', b'"/dev/null"', b"2.5", b"-7", b'"7"',
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**30, 1e308, math.nan, math.inf, -math.inf, "", " ", "\x00",
    "\ud800", "a\u2028b", "\ufeff", "\x1b[2J", "k" * 5000, [], {}, [[]], [None], ["a", 1], {"": ""},
    {"a": {"b": [1]}}, "7", 2.5, "nan",
)  # fmt: skip


def damaged(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the samples, damaged in one to three places."""

    def damage(data: bytes, dice: Random) -> bytes:
        for _ in range(dice.randint(1, 3)):
            data = dice.choice(DAMAGES)(data, dice)
        return data

    return st.builds(damage, st.sampled_from(samples), st.randoms())


def distorted(samples: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the samples (of what JSON knows), with one to three of its values distorted."""

    def often(value: Any, dice: Random) -> Any:
        value = json.loads(json.dumps(value))
        for _ in range(dice.randint(1, 3)):
            value = distort(value, dice)
        return value

    return st.builds(often, st.sampled_from(samples), st.randoms())


def distort(value: Any, dice: Random) -> Any:
    """Somewhere within: another value, one less, one twice, another key."""
    inner = [*value] if isinstance(value, dict) else [*range(len(value))] if _is_list(value) else []
    if not inner or dice.random() < 0.1:
        return deepcopy(dice.choice(VALUES))
    at = dice.choice(inner)
    change = dice.randrange(6)
    if change == 0:
        del value[at]
    elif change == 1 and isinstance(value, dict):
        value[dice.choice(("", "k" * 5000, "\ud800", "a.b", *value))] = value.pop(at)
    elif change == 1:
        value.insert(at, value[at])
    else:
        value[at] = distort(value[at], dice)
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _flip(data: bytes, dice: Random) -> bytes:
    if not data:
        return data
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, dice: Random) -> bytes:
    return data[: dice.randint(0, len(data))]


def _drop(data: bytes, dice: Random) -> bytes:
    at = dice.randint(0, len(data))
    return data[:at] + data[at + dice.randint(1, 40) :]


def _insert(data: bytes, dice: Random) -> bytes:
    at = dice.randint(0, len(data))
    return data[:at] + dice.choice(ODD) + data[at:]


def _lines(data: bytes, dice: Random) -> bytes:
    """A line is lost, stands twice, or stands elsewhere."""
    lines = data.split(b"\n")
    at = dice.randrange(len(lines))
    line = lines[at] if dice.random() < 0.5 else lines.pop(at)
    if dice.random() < 0.7:
        lines.insert(dice.randint(0, len(lines)), line)
    return b"\n".join(lines)


def _value(data: bytes, dice: Random) -> bytes:
    """What follows a `=`, `:` or `,` becomes another value, to the end of the line or field."""
    starts = [at for at, byte in enumerate(data) if byte in b"=:,"]
    if not starts:
        return dice.choice(TOKENS)
    at = dice.choice(starts) + 1
    ends = [end for end in (data.find(mark, at) for mark in (b"\n", b",", b"}")) if end >= 0]
    return data[:at] + b" " + dice.choice(TOKENS) + data[min(ends, default=len(data)) :]


DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _cut, _drop, _insert, _lines, _value, _value, _value,
)  # fmt: skip
