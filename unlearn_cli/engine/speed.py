"""How fast this machine is, measured in a moment: what a time is estimated from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MEASURED = 0.1
"""Seconds for which each speed is taken."""


@dataclass(frozen=True)
class Speed:
    """Of one device, in one precision."""

    operations: float
    """A second, in products of matrices as models have them."""
    bytes: float
    """A second, read or written."""
    call: float
    """Seconds that the smallest operation takes."""

    def seconds(self, operations: int, moved: int) -> float:
        """Of an operation, by what holds it up: computing, or `moved` bytes."""
        return self.call + max(operations / self.operations, moved / self.bytes)


def measure(device: torch.device, dtype: torch.dtype) -> Speed:
    """The speed of a device now."""
    left = torch.ones(512, 1024, dtype=dtype, device=device)
    right = torch.ones(1024, 4096, dtype=dtype, device=device)
    large, small = torch.ones(2**24, device=device), torch.ones(8, device=device)
    other = torch.empty_like(large)

    def product() -> torch.Tensor:
        return left @ right

    return Speed(
        operations=2 * 512 * 1024 * 4096 / _seconds(product, device),
        bytes=2 * large.nbytes / _seconds(lambda: other.copy_(large), device),
        call=_seconds(lambda: small + small, device),
    )


def _seconds(run: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Of one call, the first left out."""
    run()
    _wait(device)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < MEASURED:
        run()
        calls += 1
        if calls % 8 == 0:
            _wait(device)
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
