"""Loss over compressed size."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need


@dataclass(frozen=True)
class Zlib:
    """Mean loss of an answer token over the bytes that zlib needs for the answer, nats a byte.

    The size stands for how surprising the text is to anybody. As an attack (`mia`): a low value
    tells a member.

    Source: Carlini et al., Extracting Training Data from Large Language Models, 2021,
    arXiv:2012.07805; in the form of OpenUnlearning (arXiv:2506.12618), which takes the mean loss
    where the paper takes the sum.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """M / bytes."""
        if row.answer is None:
            return None
        return -row.answer.mean_logp / len(zlib.compress(row.row.answer.encode()))

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The mean."""
        return float(np.mean(values))
