"""Stopping a run on request: Ctrl-C, SIGTERM and SIGHUP let the step in progress end, then
checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unlearn_cli.errors import Terminated

STOPS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]
"""The signals that ask a process to end: by a key, by whoever manages it, by a lost terminal."""


def handle(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Let a function handle the `STOPS`; what did so before. One that is ignored, as under `nohup`,
    stays so."""
    before = {name: signal.getsignal(name) for name in STOPS}
    heard = {name: old for name, old in before.items() if old is not signal.SIG_IGN}
    for name in heard:
        signal.signal(name, handler)
    return heard


class Stopper:
    """While entered, the first signal during training is a request (`requested`, its number);
    elsewhere, or the second time, it interrupts at once."""

    def __init__(self) -> None:
        self.requested = 0
        self.training = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopper:
        self._before = handle(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While entered, a request waits for the end of the step; one that came too late for the
        last step interrupts in the end."""
        self.training = True
        try:
            yield
        finally:
            self.training = False
        self._honour()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `waiting`, what takes long and loses nothing: a request interrupts it, also one
        that came just before."""
        self.training = False
        try:
            self._honour()
            yield
        finally:
            self.training = True

    def __call__(self) -> int:
        """Number of the signal that asks training to stop after the step in progress, or 0."""
        return self.requested

    def _honour(self) -> None:
        if self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        if self.requested:
            raise Terminated(self.requested)

    def _handle(self, number: int, _: FrameType | None) -> None:
        again, self.requested = self.requested, number
        if again or not self.training:
            self._honour()
