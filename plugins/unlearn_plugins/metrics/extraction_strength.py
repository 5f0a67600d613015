"""Extraction strength: how short a prefix makes the model say the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction


@dataclass(frozen=True)
class ExtractionStrength:
    """Share of the answer that the model completes by itself, in [0, 1].

    A row's value is 1 - k*/n: n tokens of the answer, k* the smallest k such that every token from
    position k on is the most likely one, given the true tokens before it. Nothing right gives 0,
    everything right 1. A set's value is the mean over its rows. Lower is more forgotten on the
    forget set, higher is better elsewhere.

    Source: Carlini et al. 2021 (arXiv:2012.07805), in the form of OpenUnlearning
    (arXiv:2506.12618).

    Differences from the latter's code: (1) 0 where nothing is right, not 1/n. (2) The end token
    counts as a token of the answer.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """1 - k*/n of the answer."""
        if row.answer is None:
            return None
        wrong = np.flatnonzero(~row.answer.correct)
        k = int(wrong[-1]) + 1 if len(wrong) else 0
        return 1 - k / len(row.answer.correct)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
