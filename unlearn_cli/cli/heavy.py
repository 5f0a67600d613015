"""Importing the engine, with torch and transformers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Within, nothing is searched for garbage, and never again what is there afterwards.

    Three thousand modules are imported in four fifths of the time so; and a run searches for
    garbage between its stages, each time 0.2 s for nothing in those modules. Only the first time in
    a process: later there are models, which must go when they are done with.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
