"""Things to compute once each, in batches, whoever asks for them and however often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Distinct(Generic[T, R]):
    """Things to compute, each once, in order of first use, and the results that are there."""

    items: list[T] = field(default_factory=list)
    results: dict[int, R] = field(default_factory=dict)
    index: dict[object, int] = field(default_factory=dict)

    def add(self, key: object, item: T) -> int:
        """The place of `item`, which is new unless its key is known."""
        place = self.index.setdefault(key, len(self.items))
        if place == len(self.items):
            self.items.append(item)
        return place

    @property
    def missing(self) -> list[int]:
        """Places without a result."""
        return [place for place in range(len(self.items)) if place not in self.results]

    def batches(
        self,
        length: Callable[[T], int],
        size: int,
        *,
        group: Callable[[T], object] | None = None,
        least: int = 0,
    ) -> list[list[int]]:
        """What has no result, in batches of as many tokens as `size` of the longest, or of `least`
        where that is more; what `group` calls the same stands side by side."""
        together = {k: group(self.items[k]) if group else k for k in self.missing}
        lengths = {place: length(self.items[place]) for place in self.missing}
        return in_batches(lengths, max(size * max(lengths.values(), default=0), least), together)


def in_batches(
    lengths: Mapping[int, int], budget: int, group: Mapping[int, object]
) -> list[list[int]]:
    """Places in batches of so many padded tokens at most, those of a group side by side; longest
    first, so that memory runs out at once if it does."""
    most: dict[object, tuple[int, int]] = {}
    for place, length in lengths.items():  # of each group: its longest, and where it was first
        found = most.setdefault(group[place], (length, place))
        most[group[place]] = (max(found[0], length), found[1])

    def rank(place: int) -> tuple[int, int, int]:
        longest, first = most[group[place]]
        return -longest, first, -lengths[place]

    batches: list[list[int]] = []
    wide = 0
    for place in sorted(lengths, key=rank):
        wide = max(wide, lengths[place])
        if not batches or (len(batches[-1]) + 1) * wide > budget:
            batches.append([])
            wide = lengths[place]
        batches[-1].append(place)
    return batches
