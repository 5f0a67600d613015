"""What is tried out once of each model, since no list of architectures would stay true."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn


class TriedOut(WeakKeyDictionary[nn.Module, bool]):
    """Which models go along with something."""

    def find(self, model: nn.Module, try_out: Callable[[], bool]) -> bool:
        """Whether this one does, by `try_out` where it is not known yet: what raises does not.

        In the precision of its weights: autocast's rounding, in a pass that happens to be the
        first, would look like a difference.
        """
        if model not in self:
            exact = torch.autocast(next(model.parameters()).device.type, enabled=False)
            try:
                with exact:
                    self[model] = try_out()
            except Exception:  # noqa: BLE001 - whatever the architecture makes of what it does not know
                self[model] = False
        return self[model]
