"""Probability of the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction


@dataclass(frozen=True)
class Probability:
    """Length-normalised probability of the true answer, in [0, 1].

    A row's value is exp(-M), M the mean negative log-likelihood of the answer's tokens in nats, the
    end token included; a set's value is the mean over its rows. Lower is more forgotten on the
    forget set (the ideal is the value of the retain reference), higher is better elsewhere.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """exp(-M) of the answer."""
        return None if row.answer is None else row.answer.probability

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
