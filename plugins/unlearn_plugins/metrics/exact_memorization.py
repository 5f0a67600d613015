"""Exact memorisation: how many tokens of the answer the model would say itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction


@dataclass(frozen=True)
class ExactMemorization:
    """Share of the answer's tokens that the model finds most likely, in [0, 1].

    A row's value is the fraction of answer tokens, the end token included, that are the arg max of
    the model given the true tokens before them; a set's value is the mean over its rows. Lower is
    more forgotten on the forget set, higher is better elsewhere.

    Source: Tirumala et al. 2022 (arXiv:2205.10770), in the form of OpenUnlearning
    (arXiv:2506.12618).

    Difference from the latter's code: the end token counts.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """Fraction of tokens predicted right."""
        return None if row.answer is None else float(row.answer.correct.mean())

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
