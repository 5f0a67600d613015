"""ROUGE-L F1 of the generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need
from unlearn_plugins.metrics._rouge import rouge


@dataclass(frozen=True)
class RougeF1:
    """ROUGE-L F1 of the greedy generation against the true answer, in [0, 1].

    With several accepted answers, the best of them. A set's value is the mean over its rows. Lower
    is more forgotten on the forget set, down to the value of the retain reference; higher is better
    elsewhere. MUSE's verbatim memorisation, knowledge memorisation and utility are this, on three
    sets.

    Source: Shi et al., MUSE, 2024, arXiv:2407.06460; package `rouge-score`.

    Difference from OpenUnlearning's code: no stemmer, as MUSE's own; there with one.
    """

    stemmer: bool = False
    """Compare Porter stems."""

    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """The best F1 over the accepted answers."""
        if row.generation is None:
            return None
        return rouge(row.row, row.generation, "fmeasure", stem=self.stemmer)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
