"""Probability of the true answer among the answers on offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction

EPSILON = 1e-10
"""Keeps the fraction defined where every answer has probability 0; as in the source's code."""


@dataclass(frozen=True)
class NormalizedProbability:
    """Share of the true answer in the probability of true and false answers, in [0, 1].

    A row's value is p / (p + sum_j p_j + 1e-10), where p and p_j are the length-normalised
    probabilities exp(-M) of the true and of the false answers; a set's value is the mean over its
    rows. Lower is more forgotten on the forget set, higher is better elsewhere. It stands in for
    `probability` where a set has options to choose from: real authors, world facts.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer", "perturbed"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """p / (p + sum_j p_j + 1e-10)."""
        if row.answer is None or not row.perturbed:
            return None
        right = row.answer.probability
        wrong = sum(score.probability for score in row.perturbed)
        return right / (right + wrong + EPSILON)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
