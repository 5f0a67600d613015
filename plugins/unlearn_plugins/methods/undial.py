"""Self-distillation with adjusted logits."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class UNDIAL:
    """UNDIAL: imitate the model at the start, with the logit of the true token lowered.

        q = softmax(z_ref - beta onehot(y))      L_t = -sum_v q_v log softmax(z)_v

    The least that L_t can be is the entropy of q, not 0. With beta 0 nothing changes.

    Source: Dong et al., UNDIAL, NAACL 2025, arXiv:2402.10052.

    Differences from the official code:
    1. Answer tokens alone; there prompts and padding are imitated too, which regularises.
    2. z_ref comes from the reference pass rather than from a second model.
    """

    beta: Annotated[float, Ge(0)] = 10.0
    """How far the logit of the true token is lowered; published: 3, 10 and 30."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="none")

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        """(N,) nats an answer token, at least 0."""
        teacher, labels = reference.logits, forget.labels[:, None]  # (N, V), (N, 1)
        lowered = teacher.gather(1, labels) - self.beta
        target = teacher.scatter(1, labels, lowered).softmax(-1).detach()
        return -(target * forget.logits.log_softmax(-1)).sum(-1)
