"""Encoded rows as a few arrays, in memory or mapped from disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.engine.encode import Encoded, TokenIds
from unlearn_cli.engine.lazy import Lazy

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sequences(Sequence[Encoded]):
    """I sequences of T tokens in all; an `Encoded` is made when it is asked for."""

    input_ids: TokenIds
    """(T,) of one sequence after the other."""
    edges: Indices
    """(I + 1,) where each begins, and the end of the last."""
    start: Indices
    """(I,) `Encoded.start` of each."""
    end: Indices
    """(I,) `Encoded.end` of each."""

    @classmethod
    def of(cls, items: Iterable[Encoded]) -> Sequences:
        """The same sequences, in arrays; what is in arrays stays as it is."""
        if isinstance(items, cls):
            return items
        items = tuple(items)
        return cls(
            np.concatenate([np.empty(0, np.int32), *(item.input_ids for item in items)]),
            edges_of([len(item.input_ids) for item in items]),
            np.array([item.start for item in items], np.int64),
            np.array([item.end for item in items], np.int64),
        )

    def __len__(self) -> int:
        return len(self.start)

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(at, slice):
            return Lazy(range(len(self))[at], self.__getitem__)
        at = range(len(self))[at]
        ids = self.input_ids[self.edges[at] : self.edges[at + 1]]
        return Encoded(ids, int(self.start[at]), int(self.end[at]))

    @property
    def lengths(self) -> Indices:
        """(I,) tokens of each."""
        return np.diff(self.edges)

    @property
    def answers(self) -> Indices:
        """(I,) tokens of each that carry loss."""
        return self.end - self.start

    def whole(self) -> Sequences:
        """The same with loss on every token but the first of each, which nothing predicts."""
        return Sequences(self.input_ids, self.edges, np.ones_like(self.start), self.lengths)


def edges_of(lengths: Sequence[int] | Indices) -> Indices:
    """(I,) lengths -> (I + 1,) where each begins, and the end of the last."""
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), np.asarray(lengths, np.int64)]))
