"""ROUGE-L recall of the generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need
from unlearn_plugins.metrics._rouge import rouge


@dataclass(frozen=True)
class Rouge:
    """ROUGE-L recall of the greedy generation against the true answer, in [0, 1].

    A row's value is LCS(generation, answer) / words of the answer, in Porter stems; with several
    accepted answers, the best of them. A set's value is the mean over its rows. Lower is more
    forgotten on the forget set, higher is better elsewhere.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2; package `rouge-score`.

    Difference: that package drops every letter outside a-z and 0-9, so an answer in another
    script would always score 0; such an answer has no value here.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """The best recall over the accepted answers."""
        if row.generation is None:
            return None
        return rouge(row.row, row.generation, "recall", stem=True)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
