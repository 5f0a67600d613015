"""Fluency: does the model still write?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need
from unlearn_cli.errors import ModelError, PluginError

GRAM = 3


@dataclass(frozen=True)
class Fluency:
    """How little the greedy generation repeats itself, in [0, 1]; or what a classifier says of it.

    A row's value is the share of its sequences of three words that are different ones: 1 where none
    comes twice, near 0 where the model stammers. A text of one or two words counts 1, an empty one
    0: silence is what many broken models end with. A set's value is the mean over its rows. Higher
    is better; the verdict compares it with the target's, on other sets than those of forgetting.

    Limits: random words do not repeat themselves. Name a classifier to have them noticed.

    Source: 1 - seq-rep-3 of Welleck et al. 2020, arXiv:1908.04319. With a classifier:
    OpenUnlearning (arXiv:2506.12618), which takes the probability of `clean` under
    `madhurjindal/autonlp-Gibberish-Detector-492513457`.
    """

    classifier: str | None = None
    """Hub id or folder of a text classification model."""
    label: str = "clean"
    """Its label of good text."""

    needs: ClassVar[frozenset[Need]] = frozenset({"generation"})
    on_forget: ClassVar[Direction] = "higher"
    on_others: ClassVar[Direction] = "higher"

    def value(self, row: ScoredRow) -> float | None:
        """The share, or the classifier's probability; 0 for an empty text."""
        if row.generation is None:
            return None
        words = row.generation.split()
        if not words:
            return 0.0
        if self.classifier:
            return _probability(self.classifier, self.label, row.generation)
        grams = [tuple(words[k : k + GRAM]) for k in range(len(words) - GRAM + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))


def _probability(classifier: str, label: str, text: str) -> float:
    (labels,) = _load(classifier)([text])
    found = {entry["label"]: entry["score"] for entry in labels}
    if label not in found:
        hint = f"it has {', '.join(sorted(found))}"
        raise PluginError(f"the classifier {classifier} has no label {label!r}", hint=hint)
    return float(found[label])


@cache
def _load(classifier: str) -> Any:
    """Only safetensors are read, so that no file can run code."""
    from transformers import pipeline

    try:
        return pipeline(
            "text-classification",
            model=classifier,
            top_k=None,
            truncation=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        what = f"the classifier {classifier} cannot be loaded: {error}"
        hint = "give the folder or hub id of a text classification model with safetensors"
        raise ModelError(what, where="fluency", hint=hint) from error
