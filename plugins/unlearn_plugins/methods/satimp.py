"""Saturation and importance weights."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class SatImp:
    """SatImp: gradient ascent weighted by saturation and importance of each token.

        L_t = stopgrad(p_t^beta1 (1 - p_t)^beta2) log p_t

    With beta2 = 0 it is WGA, with both 0 gradient ascent.

    Source: Yang et al., Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning, ICML
    2025, arXiv:2505.11953.

    Differences from the official code:
    1. None in the formula. beta2 is 1 in the paper and .1 in the current README of the code; the
       weights gamma 1 and alpha .1 are those of the code, which open-unlearning's settings reverse.
    """

    beta1: Annotated[float, Ge(0)] = 5.0
    """How fast the weight falls as a token becomes unlikely."""
    beta2: Annotated[float, Ge(0)] = 1.0
    """How fast the weight falls as a token becomes certain."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=0.1, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) nats an answer token, at most 0."""
        logp = forget.token_logp.detach()
        saturation = (self.beta1 * logp).exp()  # p^beta1
        importance = (-logp.expm1()).pow(self.beta2)  # (1 - p)^beta2
        return saturation * importance * forget.token_logp
