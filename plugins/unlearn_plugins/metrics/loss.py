"""Loss of the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need


@dataclass(frozen=True)
class Loss:
    """Mean negative log-likelihood of an answer token, nats, at least 0.

    A row's value is M = -mean_t log p_t over the answer's tokens, the end token included; a set's
    value is the mean over its rows. Higher is more forgotten on the forget set (the ideal is the
    value of the retain reference), lower is better elsewhere. As an attack (`mia`): a low loss
    tells a member (Yeom et al. 2018, arXiv:1709.01604).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """M of the answer."""
        return None if row.answer is None else -row.answer.mean_logp

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
