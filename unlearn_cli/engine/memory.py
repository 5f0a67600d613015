"""Memory of the device that computes: taken, there, at its peak, given back."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


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
    return _ram() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _ram() -> int:
    """Of the machine, or of the container."""
    machine = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # no such file, or "max"
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return machine


def ran_out(error: Exception) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def give_back() -> None:
    """Return what is free: glibc keeps freed blocks, and the next stage needs others."""
    clear_device_cache(garbage_collection=True)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
