"""Inverted hinge loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class IHL:
    """Inverted hinge loss: take from the true token until its runner-up is as likely or more.

        L_t = max(0, 1 + p(y) - max_{v != y} p(v))

    Between 0 and 2, and it pushes against the runner-up alone.

    Source: Cha et al., Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs (LoKU),
    ICLR 2025, arXiv:2408.06621.

    Differences from the official code:
    1. The loss alone, without the Fisher-weighted start of a LoRA adapter (FILA).
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token, no unit, between 0 and 2."""
        probabilities = forget.logits.softmax(-1)  # (N, V)
        rivals = probabilities.scatter(1, forget.labels[:, None], 0.0)
        return torch.relu(1 + forget.token_logp.exp() - rivals.amax(-1))
