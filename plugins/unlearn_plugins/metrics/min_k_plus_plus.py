"""The least likely tokens of the true answer, each against its own distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need
from unlearn_plugins.metrics._lowest import mean_of_lowest

LEAST_SPREAD = 1e-3
"""Of log p at a position, nats; a certain model has none (the square of it is OpenUnlearning's)."""


@dataclass(frozen=True)
class MinKPlusPlus:
    """`min_k` of log-probabilities that are standardised at each position, no unit.

    A token's value is (log p_t - mu) / sigma, with mu and sigma mean and standard deviation of
    log p_v over v drawn from the model's distribution there. As an attack (`mia`): a low value
    tells a member.

    Source: Zhang et al., Min-K%++, ICLR 2025, arXiv:2404.02936.

    Difference from OpenUnlearning's code: the end token counts.
    """

    k: Annotated[float, Gt(0), Le(1)] = 0.4
    """Share of the tokens."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer", "distribution"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """Minus the mean over the lowest."""
        answer = row.answer
        if answer is None or answer.expected_logp is None or answer.spread_logp is None:
            return None
        spread = np.maximum(answer.spread_logp, LEAST_SPREAD)
        return -mean_of_lowest((answer.token_logp - answer.expected_logp) / spread, self.k)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
