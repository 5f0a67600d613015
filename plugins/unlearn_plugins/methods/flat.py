"""Loss adjustment with forget data only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import softplus

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores

LN2 = 0.6931471805599453
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "total_variation": lambda e, f: (f.tanh() - e.tanh()) / 2,
    "kl": lambda e, f: (f - 1).exp() - e,
    "pearson": lambda e, f: f.square() / 4 + f - e,
    "jensen_shannon": lambda e, f: softplus(-e) - LN2 + f + softplus(-f) - LN2,
}


@dataclass(frozen=True)
class FLAT:
    """FLAT: raise the probability of an alternate answer and lower that of the true one, by an
    f-divergence between the two.

        L_i = -g(P_e) + f*(g(P_f))      P = mean probability of the answer's tokens

    P_e is of the alternate answer, such as a refusal, P_f of the true one.

    Source: Wang et al., LLM Unlearning via Loss Adjustment with Only Forget Data, ICLR 2025,
    arXiv:2410.11143, table 1.

    Differences from the official code:
    1. P is the mean over the tokens of each answer; there over all positions, the prompt's and
       padding as zeros, so that P shrinks with padding, and over the batch. Coefficients and
       learning rates of the paper do not carry over.
    2. The row Jensen-Shannon is read off the code.
    """

    divergence: Literal["total_variation", "kl", "pearson", "jensen_shannon"] = "total_variation"
    """Which f-divergence."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=0.0, retain="none")

    def forget_loss(self, forget: Scores, alternate: Scores) -> Tensor:
        """(B,) one value per pair of answers, no unit."""
        e, f = (s.sum_by_row(s.token_logp.exp()) / s.lengths for s in (alternate, forget))
        return DIVERGENCES[self.divergence](e, f)
