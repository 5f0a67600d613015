"""Inverted hinge loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class IHL:
    """Inverted hinge loss: push the true token below its strongest rival, and no further.

        L_t = max(0, 1 + p_y - max of p_v over v other than y)

    p is the distribution that predicts answer token y. Between 0 (a rival is certain) and 2 (the
    true token is), 1 where both are equally likely: bounded, so that it cannot run away. The
    maximum with 0 never acts, as no p_v exceeds 1.

    Source: Cha et al., Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, ICLR
    2025, arXiv:2408.06621.

    Differences from the paper:
    1. The loss alone. LoKU trains a LoRA adapter with it, which starts from the weights that matter
       for the forget set (FILA); here all parameters, or those named, are trained.
    2. The mean runs over the tokens of the whole batch, not of a device's share of it.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token, between 0 and 2, no unit."""
        p, label = forget.logits.softmax(-1), forget.labels[:, None]  # (N, V), (N, 1)
        rival = p.scatter(1, label, 0.0).amax(-1)
        return 1 + p.gather(1, label).squeeze(1) - rival
