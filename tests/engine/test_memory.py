"""What the allocator of a CPU keeps of what was freed."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FREED = """
import sys
from contextlib import nullcontext
import torch
from unlearn_cli.engine import memory

CPU, MIB = torch.device("cpu"), 2**20
torch.zeros(31 * MIB, dtype=torch.uint8)  # freed: from here on glibc maps larger blocks alone
with memory.compact() if sys.argv[1] == "compact" else nullcontext():
    blocks, small = [], []
    for _ in range(100):
        blocks.append(torch.ones(MIB, dtype=torch.uint8))
        small.append(torch.ones(2**12, dtype=torch.uint8))  # stays alive between two that do not
    before = memory.used(CPU)
    blocks.clear()
    print((before - memory.used(CPU)) / MIB)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_what_is_freed_within_goes_back_at_once() -> None:
    """A hundred blocks of one MiB, with small ones between them that live on, are freed: 100 MiB
    go back within `compact`, and without it next to none, since glibc keeps the holes."""

    def freed(how: str) -> float:
        command = [sys.executable, "-c", FREED, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert freed("compact") == pytest.approx(100, abs=10)
    assert freed("plainly") < 20
