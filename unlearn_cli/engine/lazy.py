"""Sequences whose items are made when they are asked for: a million rows are no million objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")


class Lazy(Sequence[T]):
    """What `get` makes of each of `indices`, made anew at every look."""

    def __init__(self, indices: Any, get: Callable[[int], T]) -> None:
        """`indices` is a range or an array of whole numbers; a slice of it is one as well."""
        self._indices, self._get = indices, get

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Lazy[T]: ...
    def __getitem__(self, at: int | slice) -> T | Lazy[T]:
        found = self._indices[at]
        return Lazy(found, self._get) if isinstance(at, slice) else self._get(int(found))


def joined(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """Several sequences as one."""
    if len(parts) == 1:
        return parts[0]
    edges = np.cumsum([0, *map(len, parts)])

    def get(place: int) -> T:
        part = int(np.searchsorted(edges, place, side="right")) - 1
        return parts[part][place - int(edges[part])]

    return Lazy(range(int(edges[-1])), get)
