"""Which rows enter which optimizer step: drawn once, from the seed, before training.

The plan knows nothing of processes and micro-batches, so they cannot change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step, as indices into the encoded splits."""

    forget: Indices
    """(B,) the last step of an epoch may be smaller."""
    retain: Indices
    """(B,) paired with `forget`, or empty."""
    draw: Indices
    """(B,) a random number for each forget row: the alternate answer is number `draw % count`."""


@dataclass(frozen=True)
class Plan:
    """All steps of a training."""

    steps: tuple[Step, ...]
    steps_per_epoch: int

    def epoch(self, step: int) -> float:
        """Epochs finished after `step` steps."""
        return step / self.steps_per_epoch


def make_plan(
    *,
    forget: int,
    retain: int,
    batch_size: int,
    seed: int,
    epochs: float | None = None,
    steps: int | None = None,
) -> Plan:
    """Draw the plan.

    An epoch walks the forget rows in a new order. Each forget row is paired with a retain row;
    these walk seeded permutations of the retain set, so that no retain row comes twice before
    every one came once. (open-unlearning draws retain rows independently, with replacement.)

    Args:
        forget: number of forget rows (or of all rows, for plain fine-tuning).
        retain: number of retain rows; 0 for none.
        batch_size: forget rows in an optimizer step, all processes together.
        seed: decides every draw.
        epochs: passes over the forget rows; a fraction stops within an epoch.
        steps: number of steps, instead of `epochs`.
    """
    per_epoch = math.ceil(forget / batch_size)
    total = steps if steps is not None else max(1, round((epochs or 1) * per_epoch))
    order = _Walk(forget, np.random.default_rng([seed, 0]))
    pairs = _Walk(retain, np.random.default_rng([seed, 1]))
    draws = np.random.default_rng([seed, 2])
    made: list[Step] = []
    for number in range(total):
        start = number % per_epoch * batch_size
        rows = order.take(min(batch_size, forget - start))
        made.append(Step(rows, pairs.take(len(rows)), draws.integers(2**31, size=len(rows))))
    return Plan(tuple(made), per_epoch)


class _Walk:
    """Endless walk through permutations of `count` elements, any number at a time."""

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        self.count, self.generator = count, generator
        self.left: Indices = np.empty(0, dtype=np.int64)

    def take(self, number: int) -> Indices:
        while self.count and len(self.left) < number:
            self.left = np.concatenate([self.left, self.generator.permutation(self.count)])
        taken, self.left = self.left[:number], self.left[number:]
        return taken
