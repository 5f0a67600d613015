"""Token-wise NPO."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class TNPO:
    """Token-wise NPO: gradient ascent whose weight is NPO's, token by token.

        L_t = w_t log p_t      w_t = stopgrad(2 p^beta / (p^beta + p_ref^beta))

    At the start every weight is 1.

    Source: Wang et al., Rethinking LLM Unlearning Objectives (G-effect), ICLR 2025,
    arXiv:2502.19301.

    Differences from the official code:
    1. The weight is computed as 2 sigma(beta (log p - log p_ref)), which needs no constant in the
       denominator; there it is 1e-5.
    """

    beta: Annotated[float, Gt(0)] = 4.0
    """Inverse temperature: the larger, the sooner a token counts as forgotten."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        """(N,) nats an answer token, at most 0."""
        log_ratio = forget.token_logp.detach() - reference.token_logp  # (N,) nats
        return 2 * (self.beta * log_ratio).sigmoid() * forget.token_logp
