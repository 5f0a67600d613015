"""How far the true answer still pulls the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need


@dataclass(frozen=True)
class GradientNorm:
    """Mean over the parameter tensors of the L2 norm of the loss's gradient.

    The loss is the mean over the answer's tokens. It costs a backward pass a row. As an attack
    (`mia`): a small gradient tells a member.

    Source: Wang et al., Pandora's White-Box, 2024, arXiv:2402.17012; in the form of OpenUnlearning
    (arXiv:2506.12618).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "gradient"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """The mean norm."""
        return None if row.answer is None else row.answer.gradient_norm

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
