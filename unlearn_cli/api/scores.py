"""Scores of answers: the one place where logits become log-probabilities of labels.

Notation, for a micro-batch of B rows with N answer tokens in all, vocabulary V:
position t of a row predicts token t + 1, so an answer token at index t is scored by the hidden
state at t - 1 (`position` already holds t - 1). Answer tokens are packed, row after row, with no
padding between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """Log-probabilities that a model gives to the answers of B rows, all in nats."""

    token_logp: Tensor
    """(N,) float32, log p(token | prompt, earlier answer tokens); 0 is certainty."""
    row: Tensor
    """(N,) int64, which of the B rows a token belongs to, ascending."""
    labels: Tensor
    """(N,) int64, the answer tokens themselves, the end token included."""
    rows: int
    """B."""
    make_logits: Callable[[], Tensor] | None = field(default=None, repr=False)

    @cached_property
    def logits(self) -> Tensor:
        """(N, V) float32 logits at the positions that predict the answer tokens.

        Made on first use: a method that never asks pays nothing.
        """
        if self.make_logits is None:
            raise ValueError("these scores were made without logits")
        return self.make_logits()

    @cached_property
    def _member(self) -> Tensor:
        """(B, N) bool, token n belongs to row b."""
        return self.row[None, :] == torch.arange(self.rows, device=self.row.device)[:, None]

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) float32, answer tokens a row, n_i >= 1."""
        return self._member.sum(1).to(self.token_logp.dtype)

    def sum_by_row(self, values: Tensor) -> Tensor:
        """(N,) -> (B,): sum of a value per token over each row. Deterministic on every device."""
        return torch.where(self._member, values[None, :], 0.0).sum(1)

    @cached_property
    def answer_logp(self) -> Tensor:
        """(B,) log-probability of the whole answer: -S_i, the sum over its tokens."""
        return self.sum_by_row(self.token_logp)

    @cached_property
    def answer_mean_logp(self) -> Tensor:
        """(B,) mean log-probability of an answer token: -M_i = -S_i / n_i."""
        return self.answer_logp / self.lengths
