"""The least likely tokens of the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need
from unlearn_plugins.metrics._lowest import mean_of_lowest


@dataclass(frozen=True)
class MinK:
    """Minus the mean log-probability of the least likely tokens of the answer, nats, at least 0.

    Of n tokens the k n least likely count, rounded down, at least one. As an attack (`mia`): a low
    value tells a member.

    Source: Shi et al., Detecting Pretraining Data from Large Language Models, ICLR 2024,
    arXiv:2310.16789.

    Difference from OpenUnlearning's code: the end token counts.
    """

    k: Annotated[float, Gt(0), Le(1)] = 0.4
    """Share of the tokens; MUSE and OpenUnlearning: 0.4."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """The mean over the lowest."""
        return None if row.answer is None else -mean_of_lowest(row.answer.token_logp, self.k)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
