"""What the allocator of a CPU keeps of what was freed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.engine.test_train import NotFinite, Setting
from unlearn_cli.engine import memory
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.train import Trainer
from unlearn_cli.errors import RunError
from unlearn_cli.spec import load_spec

FREED = """
import sys
from contextlib import nullcontext
import torch
from unlearn_cli.engine import memory

CPU, MIB = torch.device("cpu"), 2**20
torch.zeros(31 * MIB, dtype=torch.uint8)  # freed: from here on glibc maps larger blocks alone
how, size = sys.argv[1], int(sys.argv[2])
with nullcontext() if how == "plainly" else memory.compact(sparing=how == "sparingly"):
    blocks, small = [], []
    for _ in range(100 * MIB // size):
        blocks.append(torch.ones(size, dtype=torch.uint8))
        small.append(torch.ones(2**12, dtype=torch.uint8))  # stays alive between two that do not
    before = memory.used(CPU)
    blocks.clear()
    print((before - memory.used(CPU)) / MIB)
    memory.give_back_holes(CPU)
    print((before - memory.used(CPU)) / MIB)
"""


@pytest.mark.skipif(
    memory._mallopt() is None or "LD_PRELOAD" in os.environ, reason="glibc's allocator is not used"
)
@pytest.mark.parametrize(
    ("how", "size", "at_once"),
    [
        ("plainly", 2**21, False),
        ("compactly", 2**21, True),
        ("compactly", 2**18, False),
        ("sparingly", 2**18, True),
    ],
)
def test_what_is_freed_goes_back_at_once_or_after_a_pass(
    how: str, size: int, at_once: bool
) -> None:
    """100 MiB in blocks, with small ones between them that live on, are freed. Those of 2 MiB go
    back at once within `compact`, those of 256 KiB where it is sparing; of others next to nothing
    does, since glibc keeps the holes, until what a pass has left is given back."""
    command = [sys.executable, "-c", FREED, how, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    freed, later = map(float, done.stdout.split())
    assert freed == pytest.approx(100, abs=10) if at_once else freed < 20
    assert later == pytest.approx(100, abs=10)


@pytest.mark.parametrize(("tuned", "trims"), [(True, 3), (False, 0)])
def test_between_passes_goes_back_what_they_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned: bool, trims: int
) -> None:
    """8 rows to forget and 8 to keep, 4 at once, are 4 passes, with 3 times between them. Where
    the user has set thresholds, or there is no glibc, nothing is given back; nor for an
    accelerator, whose memory is not glibc's."""
    count = list[int]()
    trainer = Setting(tmp_path, micro_batch=4).trainer
    monkeypatch.setattr(memory, "_mallopt", lambda: (lambda *_: 1) if tuned else None)
    monkeypatch.setattr(memory, "_trim", lambda: count.append(1))
    memory.give_back_holes(torch.device("cuda"))
    assert not count
    trainer.step()
    assert len(count) == (trims if trainer.accelerator.device.type == "cpu" else 0)


def test_from_the_start_freed_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks up to 32 MiB, and 64 MiB at the end of the heap, whatever was freed before, by which
    glibc goes without being told."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_mallopt", lambda: lambda *of: told.append(of))
    Session(load_spec("quickstart"), lambda event: None)
    assert told == [(-3, 2**25), (-1, 2**26)]


def test_a_step_gives_back_what_it_frees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a step the allocator gives back blocks from 1 MiB on, or from 128 KiB on where time is
    given for memory already; after it, also where it fails, from 32 MiB on, where glibc ends."""
    told: list[tuple[int, int]] = []
    check = Trainer._check_finite

    def checked(trainer: Trainer, losses: Mapping[str, float]) -> None:
        told.append((0, 0))
        check(trainer, losses)

    monkeypatch.setattr(memory, "_mallopt", lambda: lambda *of: told.append(of))
    monkeypatch.setattr(Trainer, "_check_finite", checked)
    step = [(-3, 2**20), (-1, 2**21), (0, 0), (-3, 2**25), (-1, 2**26)]
    Setting(tmp_path / "a").trainer.step()
    assert told == step
    told.clear()
    with pytest.raises(RunError):
        Setting(tmp_path / "b", NotFinite()).trainer.step()
    assert told == step
    told.clear()
    Setting(tmp_path / "c", activation_checkpointing=True).trainer.step()
    assert told == [(-3, 2**17), (-1, 2**18), *step[2:]]


@pytest.mark.parametrize(
    ("device", "tuned", "in_step", "held"),
    [
        ("cpu", True, True, 1100),
        ("cpu", True, False, 1064),
        ("cpu", False, True, 1100),
        ("cuda", True, True, 1100),
    ],
)
def test_what_is_held_is_what_is_alive_and_what_the_allocator_keeps(
    monkeypatch: pytest.MonkeyPatch, device: str, tuned: bool, in_step: bool, held: int
) -> None:
    """Of 1000 MiB: a tenth more in a step, and where another allocator is asked or the user has set
    glibc's thresholds; elsewhere on a CPU glibc's 64 MiB. What was never taken is not
    kept: 10 MiB are 20 at most."""
    monkeypatch.setattr(memory, "_mallopt", lambda: (lambda *_: 1) if tuned else None)
    mib = 2**20
    assert memory.held(1000 * mib, torch.device(device), in_step=in_step) == held * mib
    if tuned and not in_step:
        assert memory.held(10 * mib, torch.device(device)) == 20 * mib


def test_what_the_user_has_set_of_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a variable of glibc's thresholds nothing is tuned."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    memory._mallopt.cache_clear()
    try:
        assert memory._mallopt() is None
    finally:
        memory._mallopt.cache_clear()
