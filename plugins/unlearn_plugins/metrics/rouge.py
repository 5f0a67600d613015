"""ROUGE-L recall of the generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _has_words(text: str) -> bool:
    """Whether ROUGE sees anything in `text`: its tokenizer knows only a-z and 0-9."""
    return any(c.isascii() and c.isalnum() for c in text.lower())


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

    needs: ClassVar[frozenset[str]] = frozenset({"generation"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """The best recall over the accepted answers."""
        if row.generation is None:
            return None
        answers = [a for a in row.row.answers or (row.row.answer,) if _has_words(a)]
        recalls = [_scorer().score(a, row.generation)["rougeL"].recall for a in answers]
        return max(recalls, default=None)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
