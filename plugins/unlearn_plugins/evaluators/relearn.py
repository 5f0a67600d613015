"""Stress test: does a little training bring the knowledge back?"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from unlearn_cli.api import EvaluatorName, Recipe, Subject


@dataclass(frozen=True)
class Relearn:
    """Fine-tune the model on a part of the forget set, and measure again.

    Knowledge that was only hidden comes back sooner than it is learned anew. The control is the
    retain reference under the same training: it too now knows what it was just told. So what the
    evaluator inside says of the relearned model, it says against the relearned reference.

    Source: Open-Unlearning (2025, arXiv:2506.12618), section on relearning: one epoch on the whole
    forget set at 2e-5.

    Differences: (1) a part of the rows is trained on, drawn with the seed of the run, so that the
    others show whether more comes back than was told. (2) Every parameter is trained, also where
    the method trained some.
    """

    of: EvaluatorName = "tofu"
    """The evaluator that measures, with the options that the spec gives it."""
    share: Annotated[float, Gt(0), Le(1)] = 0.2
    """Share of the forget rows that are trained on."""
    epochs: Annotated[float, Gt(0)] = 1.0
    """Passes over these rows."""
    steps: Annotated[int, Gt(0)] | None = None
    """Optimizer steps, instead of epochs."""
    rows_per_step: Annotated[int, Gt(0)] = 32
    """Examples in an optimizer step, all processes together."""
    learning_rate: Annotated[float, Gt(0)] = 2e-5
    """AdamW, constant."""

    def change(self, subject: Subject) -> None:
        """Fine-tune on the drawn rows."""
        rows = subject.data.forget
        generator = random.Random(subject.seed)  # noqa: S311 - to repeat, not to be secret
        drawn = generator.sample(range(len(rows)), math.ceil(self.share * len(rows)))
        recipe = Recipe(self.epochs, self.steps, self.rows_per_step, self.learning_rate)
        subject.fine_tune([rows[k] for k in sorted(drawn)], recipe)
