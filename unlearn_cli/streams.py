"""Standard streams that lead nowhere: closed when the command starts, or left by whoever read them.

A run goes on without an audience: what it says on stderr is for people, and what counts is on disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def open_closed() -> None:
    """Let a standard stream that is closed (`>&-`) lead nowhere.

    Else the next file that is opened would get its number, and whatever a library prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # numbered 0, 1, 2
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: its own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Let a stream lead nowhere from now on, so that nothing is left to flush at exit either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def unheard() -> Iterator[None]:
    """Within, stderr is written to; where that fails (a pipe without a reader, a full disk, a
    terminal that is gone), it is silenced, and nothing is raised."""
    try:
        yield
    except OSError:
        silence(sys.stderr)
