"""Importing the engine, and with it transformers, which is most of a command's start."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Within, nothing is searched for garbage, and never again what is there afterwards.

    Three thousand modules are imported in four fifths of the time so; and a run searches for
    garbage between its stages, each time 0.2 s for nothing in those modules: a small run takes
    5.1 s in place of 7.3. Not in a process that has transformers already, and may have models,
    which must go when they are done with.
    """
    if "transformers" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
