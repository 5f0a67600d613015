"""Scores made by hand, for the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from unlearn_cli.api.scores import Scores

Make = Callable[[Sequence[Sequence[float]]], Scores]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def make(request: pytest.FixtureRequest) -> Make:
    """Scores from the log-probabilities of each answer's tokens; gradients reach `token_logp`."""

    def scores(answers: Sequence[Sequence[float]]) -> Scores:
        packed = [logp for answer in answers for logp in answer]
        rows = [row for row, answer in enumerate(answers) for _ in answer]
        return Scores(
            token_logp=torch.tensor(packed, dtype=request.param, requires_grad=True),
            row=torch.tensor(rows),
            labels=torch.zeros(len(packed), dtype=torch.long),
            rows=len(answers),
        )

    return scores
