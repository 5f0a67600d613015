"""Weighted token-wise NPO."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores
from unlearn_plugins.methods._token_npo import npo_weight


@dataclass(frozen=True)
class WTNPO:
    """Weighted token-wise NPO: TNPO, and what is already unlikely counts less.

        L_t = w_t log p_t      w_t = stopgrad(p^exponent 2 p^beta / (p^beta + p_ref^beta))

    Source: Wang et al., Rethinking LLM Unlearning Objectives (G-effect), ICLR 2025,
    arXiv:2502.19301.

    Differences from the official code:
    1. As for TNPO, no constant in the denominator, and the retain term is an option.
    2. `exponent` is its alpha; `alpha` is here, as for every method, the weight of the retain term.
    """

    beta: Annotated[float, Gt(0)] = 4.0
    """Inverse temperature: the larger, the sooner a token counts as forgotten."""
    exponent: Annotated[float, Ge(0)] = 1.5
    """How fast the weight falls with the probability."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        """(N,) nats an answer token, at most 0."""
        confidence = (self.exponent * forget.token_logp.detach()).exp()  # p^exponent
        return npo_weight(forget, reference, self.beta) * confidence * forget.token_logp
