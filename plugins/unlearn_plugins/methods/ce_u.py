"""Cross-entropy unlearning."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class CEU:
    """Cross-entropy unlearning: imitate one's own distribution without the true token.

        q = stopgrad softmax(z with z_y = -inf)      L_t = -sum_v q_v log softmax(z)_v

    The gradient by the logits is bounded: p_y at y, -p_v p_y / (1 - p_y) elsewhere.

    Source: Yang, CE-U: Cross Entropy Unlearning, 2025, arXiv:2503.01224.

    Differences from the official code:
    1. The tokens that are ignored have value 0 and are still counted by the mean.
    """

    ignore_first_n_answer_tokens: Annotated[int, Ge(0)] = 1
    """Tokens at the start of each answer that are left alone."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="none")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) nats an answer token, at least 0."""
        logits, labels = forget.logits, forget.labels[:, None]  # (N, V), (N, 1)
        target = logits.detach().scatter(1, labels, -torch.inf).softmax(-1)
        loss = -(target * logits.log_softmax(-1)).sum(-1)
        return torch.where(_place(forget) < self.ignore_first_n_answer_tokens, 0.0, loss)


def _place(scores: Scores) -> Tensor:
    """(N,) how many tokens of the same answer come before."""
    first = torch.searchsorted(scores.row, scores.row)  # rows ascend
    return torch.arange(len(scores.row), device=scores.row.device) - first
