"""How many rows fit into memory at once: `train.micro_batch = "auto"`.

The answer depends on the machine and not on what else runs there, so that a run that is repeated or
resumed gets the same; where memory runs out nevertheless, the trainer halves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from unlearn_cli.engine import memory
from unlearn_cli.engine.estimate import Estimate, estimate_step, heaviest_step
from unlearn_cli.engine.gradients import Gradients, Smoothing
from unlearn_cli.engine.objective import Streams, Term
from unlearn_cli.engine.plan import Plan

SHARE = 0.85
"""Of the memory, that is planned with."""
RESERVED = 2**30
"""Bytes for libraries, rows and the device's own needs."""
MOST_TOKENS = 8192
"""In one forward pass: more are not faster, and where rows attend under one mask the work grows
with their square."""


def fitting_rows(
    make: Callable[[], tuple[Any, Sequence[Term]]],
    terms: Sequence[Term],
    streams: Streams,
    plan: Plan,
    accelerator: Accelerator,
    *,
    optimizer: str,
    smoothing: Smoothing | None = None,
) -> int:
    """The largest micro-batch of a training that fits, by halves of a whole step; at least 1.

    Args:
        make: as `estimate_step` takes it, and the other arguments too.
        terms: of the loss, for their rows.
        streams: where these are.
        plan: the steps; the heaviest of the first is taken.
        accelerator: every process must call this function, and gets the same answer.
        optimizer: its name in the spec.
        smoothing: where the gradient of the first term is taken.

    Raises:
        UnforeseenError: no estimate can be made.
    """
    step = heaviest_step(plan, terms, streams)
    rows = sum(len(part) for term in terms for part in islice(term.rows(step).values(), 1))
    rows = -(-rows // accelerator.num_processes)

    def fits(size: int) -> bool:
        work = Gradients(accelerator, nn.Identity(), streams, micro_batch=size)
        if max(part.tokens for part in work.parts(terms, step)) > MOST_TOKENS:
            return False
        found = estimate_step(
            make,
            streams,
            plan,
            accelerator,
            micro_batch=size,
            optimizer=optimizer,
            smoothing=smoothing,
        )
        wanted = RESERVED + found.weights + growth(found, accelerator)
        return wanted <= SHARE * memory.total(accelerator)

    while rows > 1 and not fits(rows):
        rows = -(-rows // 2)
    least: Any = accelerator.gather(torch.tensor([rows], device=accelerator.device))
    return int(least.min())


def growth(found: Estimate, accelerator: Accelerator) -> int:
    """Bytes that training adds to a loaded model at its peak; several processes keep a second copy
    of the gradients, which they exchange."""
    buckets = found.gradients if accelerator.num_processes > 1 else 0
    allocated = found.peak - found.weights + buckets
    return memory.held(allocated, accelerator.device, in_step=True)
