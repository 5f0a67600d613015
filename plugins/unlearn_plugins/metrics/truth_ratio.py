"""Truth ratio: are false answers as likely as the true one?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction

LIMIT = 690.0
"""Largest |ln R|: keeps R and 1/R finite in float64 and, being monotone, changes no rank."""


@dataclass(frozen=True)
class TruthRatio:
    """How likely the false answers are, compared with the true one: R = p_wrong / p_correct.

    A row's value is R in (0, inf), with p = exp(-M) the length-normalised probability:
    p_correct is that of the paraphrased answer, or of the answer where there is no paraphrase;
    p_wrong is the geometric mean over the false answers, exp(mean_j -M_j), or with
    `aggregation = "arithmetic"` the arithmetic mean, mean_j exp(-M_j).
    A set's value, in [0, 1], is the mean of min(R, 1/R) on the forget set, where 1 means that
    truth and falsehood look alike and the ideal is the retain reference, and the mean of
    max(0, 1 - R) on the others, where higher is better.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2, and
    `aggregate_eval_stat.py` of its repository.

    Differences: (1) the paper prints the arithmetic mean; the published numbers use the
    geometric one, which is the default here. (2) Computed as a difference of logs, so no 1e-10
    is added to the denominator.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer", "perturbed"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "higher"

    aggregation: Literal["geometric", "arithmetic"] = "geometric"
    """How the false answers are averaged."""

    def value(self, row: ScoredRow) -> float | None:
        """R; nan where both probabilities are 0."""
        correct = row.paraphrase or row.answer
        if correct is None or not row.perturbed:
            return None
        log_ratio = self._log_wrong(row) - correct.mean_logp
        return math.exp(min(max(log_ratio, -LIMIT), LIMIT)) if log_ratio == log_ratio else math.nan

    def _log_wrong(self, row: ScoredRow) -> float:
        """ln p_wrong, nats."""
        logps = [score.mean_logp for score in row.perturbed]
        if self.aggregation == "geometric":
            return sum(logps) / len(logps)
        return float(np.logaddexp.reduce(logps)) - math.log(len(logps))

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """Mean of min(R, 1/R) on `forget`, of max(0, 1 - R) elsewhere."""
        ratio = np.asarray(values)
        if set == "forget":
            return float(np.minimum(ratio, 1 / ratio).mean())
        return float(np.maximum(0.0, 1 - ratio).mean())
