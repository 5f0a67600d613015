"""Memory of the device that computes: taken, there, at its peak, given back."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

T = TypeVar("T")
R = TypeVar("R")
TRIM, MMAP = -1, -3
"""What mallopt(3) calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
TINY, SMALL, LARGE = 2**17, 2**20, 32 * 2**20
"""Bytes of the blocks that go back to the system at once when freed: within a sparing `compact`,
within another, elsewhere. The end of glibc's heap goes back where twice that is free."""
OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""With which a user has said how it shall be."""
KEPT = 0.1
"""Of what is allocated, that is held beside it: in a step, and by an allocator of which no more is
known."""


def used(device: torch.device) -> int:
    """Bytes that this process has taken: of the accelerator, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return int(psutil.Process().memory_info().rss)


def peak(device: torch.device) -> int:
    """The most that it took: allocated on an accelerator, resident in this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def total(accelerator: Accelerator) -> int:
    """Bytes that there are for this process."""
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[1]
    return ram() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def ram() -> int:
    """Of the machine, or of the container or job that this process is in."""
    return min([int(psutil.virtual_memory().total), *_limits()])


def _limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """The limits of the control groups of Linux around this process, in both of their versions."""
    lines = groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else []
    for _, controllers, inside in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            base = root / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = base / inside.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # no such file, or "max"
                    yield int((folder / name).read_text(encoding="ascii"))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def give_back() -> None:
    """Return what is free: glibc keeps freed blocks, and the next stage needs others."""
    clear_device_cache(garbage_collection=True)
    _trim()


def give_back_holes(device: torch.device) -> None:
    """Return, between two passes of a step, what is free in glibc's heap, where `compact` keeps
    small blocks: those of the next pass are larger, and holes would add up to a gigabyte. After the
    last pass little is won and time is lost, since the next step begins with its shortest rows."""
    if device.type == "cpu" and _mallopt():
        _trim()


def _trim() -> None:
    if trim := _glibc("malloc_trim"):
        trim(0)


@cache
def _glibc(function: str) -> Callable[..., int] | None:
    """None with another C library."""
    with suppress(OSError, AttributeError):
        return getattr(ctypes.CDLL(None), function)  # type: ignore[no-any-return]
    return None


def keep_freed() -> None:
    """Let glibc keep freed blocks up to the largest size that it allows, from now on. By itself it
    goes by what was freed before, and an evaluation took a million pages more."""
    _give_back_from(LARGE)


@contextmanager
def compact(*, sparing: bool = False) -> Iterator[None]:
    """Within, glibc gives freed blocks back at once, of 1 MiB or more; later it keeps them again.

    Those of a training step have so many sizes that the holes between what is alive fit none of
    them: up to a third of the peak. What is given back costs time to take anew: about a third of
    a step from 128 KiB on, half as much from 1 MiB on, for a few per cent of memory, or a seventh
    with an adapter (docs/benchmarks.md).

    Args:
        sparing: from 128 KiB on, where memory is wanted more than time.
    """
    _give_back_from(TINY if sparing else SMALL)
    try:
        yield
    finally:
        keep_freed()


def _give_back_from(size: int) -> None:
    if tune := _mallopt():
        tune(MMAP, size)
        tune(TRIM, 2 * size)


@cache
def _mallopt() -> Callable[..., int] | None:
    """None with another C library, and where the user has set what this would."""
    return None if any(name in os.environ for name in OWN_SETTINGS) else _glibc("mallopt")


def held(allocated: int, device: torch.device, *, in_step: bool = False) -> int:
    """Bytes that an allocator takes for those that are `allocated` at their peak: in a training
    step, which is `compact`, or elsewhere."""
    if in_step or device.type != "cpu" or _mallopt() is None:
        return round(allocated * (1 + KEPT))
    return allocated + min(allocated, 2 * LARGE)


def fitting(run: Callable[[list[T]], Sequence[R]], items: list[T], *, split: bool) -> list[R]:
    """The results of a batch, in halves where it does not fit into memory and may be `split`."""
    try:
        return list(run(items))
    except RuntimeError as error:
        if not ran_out(error) or len(items) == 1 or not split:
            raise
    give_back()
    half = len(items) // 2
    halves = items[:half], items[half:]
    return [result for part in halves for result in fitting(run, part, split=split)]
