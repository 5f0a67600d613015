"""Reweighting by saturation and importance."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class SatImp:
    """SatImp: ascend on the tokens that are still likely (not saturated), but not on those that
    are nearly certain from context (not important).

        L_t = -p_t^beta1 (1 - p_t)^beta2 l_t      l_t = -log p_t, both weights held constant

    With beta2 = 0 it is weighted gradient ascent, with both 0 gradient ascent.

    Source: Yang et al., Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning, ICML
    2025, arXiv:2505.11953.

    gamma 1 and alpha 0.1 are those of the official code; open-unlearning's file has them reversed.
    beta2 is the paper's; the official README took 0.1 later.

    Differences from the official code:
    1. The weights are computed in float32, from log-probabilities: no underflow in bfloat16.
    """

    beta1: Annotated[float, Ge(0)] = 5.0
    """Exponent of saturation: the larger, the sooner an unlikely token is let go."""
    beta2: Annotated[float, Ge(0)] = 1.0
    """Exponent of importance: the larger, the less a nearly certain token is pushed."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=0.1, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token, nats, at most 0."""
        logp = forget.token_logp
        constant = logp.detach()
        # 1 - p without cancellation; a log-probability that rounding made positive gives 0.
        rest = (-constant.expm1()).clamp_min(0.0)
        return (self.beta1 * constant).exp() * rest.pow(self.beta2) * logp
