"""What is tried out once of each model, since no list of architectures would stay true."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import nn


class TriedOut(WeakKeyDictionary[nn.Module, bool]):
    """Which models go along with something."""

    def find(self, model: nn.Module, try_out: Callable[[], bool]) -> bool:
        """Whether this one does, by `try_out` where it is not known yet: what raises does not."""
        if model not in self:
            try:
                self[model] = try_out()
            except Exception:  # noqa: BLE001 - whatever the architecture makes of what it does not know
                self[model] = False
        return self[model]
