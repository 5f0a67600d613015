"""ROUGE-L of texts, shared by the metrics of generated answers."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from rouge_score.rouge_scorer import RougeScorer

from unlearn_cli.api import Row


def rouge(row: Row, text: str, figure: Literal["recall", "fmeasure"], stem: bool) -> float | None:
    """Of a text against the accepted answers of a row, the best; None where ROUGE sees no word in
    any of them."""
    answers = [answer for answer in row.answers or (row.answer,) if _has_words(answer)]
    found = [getattr(_scorer(stem).score(a, text)["rougeL"], figure) for a in answers]
    return max(found, default=None)


@cache
def _scorer(stem: bool) -> Any:
    return RougeScorer(["rougeL"], use_stemmer=stem)


def _has_words(text: str) -> bool:
    """Whether ROUGE sees anything in `text`: its tokenizer knows only a-z and 0-9."""
    return any(c.isascii() and c.isalnum() for c in text.lower())
