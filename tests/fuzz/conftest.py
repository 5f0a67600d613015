"""How much is tried, and how long one try may take."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

Tries = Callable[[int], Callable[[Callable[..., None]], Callable[..., None]]]
SECONDS = 20
"""For one try; what takes longer hangs."""


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Tries:
    """`tries(100)` makes a property be tried so often, times `--mutants`."""
    factor = request.config.getoption("--mutants")

    def tries(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
        # Each time others; what fails is shrunk, printed, and belongs into the corpus.
        return settings(
            max_examples=count * factor,
            deadline=None,
            database=None,
            suppress_health_check=[*HealthCheck],
        )

    return tries


@pytest.fixture
def in_time() -> Iterator[Callable[[], None]]:
    """Call it as a try begins: it is interrupted where it takes too long."""

    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"hangs: it took {SECONDS} seconds")

    before: Any = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, SECONDS) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
