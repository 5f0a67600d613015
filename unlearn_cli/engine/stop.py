"""Stopping a run on request: Ctrl-C and SIGTERM let the step in progress end, then checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unlearn_cli.errors import Terminated


class Stopper:
    """While entered, the first signal during training is a request (`requested`, its number);
    outside training, or the second time, it interrupts at once."""

    def __init__(self) -> None:
        self.requested = 0
        self.training = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopper:
        for name in (signal.SIGINT, signal.SIGTERM):
            self._before[name] = signal.signal(name, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While entered, a request waits for the end of the step."""
        self.training = True
        try:
            yield
        finally:
            self.training = False

    def __call__(self) -> int:
        """Number of the signal that asks training to stop after the step in progress, or 0."""
        return self.requested

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested or not self.training:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.requested = number
