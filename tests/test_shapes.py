"""What was read is held against the types that it should have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from unlearn_cli.shapes import misfit


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    share: float = 0.0
    done: bool = False
    note: str | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)
    inner: tuple[Inner, ...] = ()
    rest: Any = None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"count": 1}, ""),
        ({"count": 1, "another version's": [1]}, ""),
        ({"count": 1, "share": None, "note": None, "by_name": {"a": 1, "b": None}}, ""),
        ({"count": 1, "inner": [{"name": "a"}], "rest": {"any": ["thing"]}}, ""),
        (None, "must be an object"),
        ({}, "count: is missing"),
        ({"count": True}, "count: must be a whole number"),
        ({"count": 1.5}, "count: must be a whole number"),
        ({"count": 1, "share": "0.5"}, "share: must be a number"),
        ({"count": 1, "share": False}, "share: must be a number"),
        ({"count": 1, "done": 0}, "done: must be true or false"),
        ({"count": 1, "note": 7}, "note: must be text"),
        ({"count": 1, "by_name": {"a": "b"}}, "by_name.a: must be a number"),
        ({"count": 1, "by_name": []}, "by_name: must be an object"),
        ({"count": 1, "inner": {"name": "a"}}, "inner: must be a list"),
        ({"count": 1, "inner": [{"name": "a"}, {}]}, "inner.1.name: is missing"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(value: Any, wrong: str) -> None:
    """Null stands for a number that is not finite; unknown keys are those of other versions."""
    assert misfit(value, Outer) == wrong
