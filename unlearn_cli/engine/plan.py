"""Which rows enter which optimizer step: drawn once, from the seed, before training.

The plan knows nothing of processes and micro-batches, so they cannot change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.engine.sequences import Indices

BLOCK = 2**16
"""Random numbers that are drawn at once, at least."""


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step, as indices into the encoded splits."""

    forget: Indices
    """(B,) the last step of an epoch may be smaller."""
    retain: Indices
    """(B,) paired with `forget`, or empty."""
    draw: Indices
    """(B,) a random number for each forget row: the alternate answer is number `draw % count`."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All steps of a training."""

    steps: Sequence[Step]
    """A step is drawn when it is asked for: the same at every look."""
    steps_per_epoch: int
    forget_rows: Indices
    """The rows that the steps draw, ascending, each once."""
    retain_rows: Indices
    """Likewise."""

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
    order = _Draws.walk(forget, np.random.default_rng([seed, 0]))
    pairs = _Draws.walk(retain, np.random.default_rng([seed, 1]))
    numbers = _Draws(BLOCK, np.random.default_rng([seed, 2]), _numbers)

    def before(step: int) -> int:
        epochs, steps = divmod(step, per_epoch)
        return epochs * forget + min(steps * batch_size, forget)

    def make(number: int) -> Step:
        first, last = before(number), before(number + 1)
        return Step(*(draws.take(first, last) for draws in (order, pairs, numbers)))

    drawn = before(total)
    return Plan(
        Lazy(range(total), make),
        per_epoch,
        order.distinct(forget, drawn),
        pairs.distinct(retain, drawn),
    )


class _Draws:
    """An endless row of random numbers, any stretch of it at any time.

    They come block by block, and what is kept is the last block and the generator's state before
    each: a plan takes the same memory for any number of steps.
    """

    def __init__(
        self,
        size: int,
        generator: np.random.Generator,
        draw: Callable[[np.random.Generator, int], Indices],
    ) -> None:
        """`draw` gives the next `size` numbers."""
        self.size, self.generator, self.draw = size, generator, draw
        self.states: list[Any] = [generator.bit_generator.state]
        self.number, self.block = -1, np.empty(0, np.int64)

    @classmethod
    def walk(cls, count: int, generator: np.random.Generator) -> _Draws:
        """Through permutations of `count` elements; of none, no numbers come."""
        times = math.ceil(BLOCK / max(1, count))  # a small set does not make many blocks

        def permutations(generator: np.random.Generator, size: int) -> Indices:
            return np.concatenate([generator.permutation(count) for _ in range(size // count)])

        return cls(times * count, generator, permutations)

    def take(self, first: int, last: int) -> Indices:
        """The numbers from place `first` up to `last`."""
        if not self.size:
            return self.block
        parts = []
        while first < last:
            number, place = divmod(first, self.size)
            part = self._block(number)[place : place + last - first]
            parts.append(part)
            first += len(part)
        return np.concatenate([self.block[:0], *parts])

    def _block(self, number: int) -> Indices:
        known = min(number, len(self.states) - 1)
        for k in range(known, number + 1) if number != self.number else ():
            self.generator.bit_generator.state = self.states[k]
            self.block = self.draw(self.generator, self.size)
            if k + 1 == len(self.states):
                self.states.append(self.generator.bit_generator.state)
        self.number = number
        return self.block

    def distinct(self, count: int, drawn: int) -> Indices:
        """Of a walk, what its first `drawn` numbers are, each once, ascending."""
        return np.sort(self.take(0, min(count, drawn)))


def _numbers(generator: np.random.Generator, size: int) -> Indices:
    return generator.integers(2**31, size=size)
