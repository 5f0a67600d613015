"""Loss adjustment with forget data alone."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores

DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "total_variation": lambda e, f: (f.tanh() - e.tanh()) / 2,
    "kl": lambda e, f: (f - 1).exp() - e,
    "pearson": lambda e, f: f.square() / 4 + f - e,
    "jensen_shannon": lambda e, f: F.softplus(-e) + F.softplus(f) - 2 * log(2),
}
"""f*(g(P_f)) - g(P_e) of (B,) probabilities `e` of the alternate and `f` of the forget answers."""


@dataclass(frozen=True)
class FLAT:
    """FLAT: push the true answer and an alternate apart, as far as an f-divergence says they are.

        L_i = -g(P_e) + f*(g(P_f))      P = mean over an answer's tokens of their probability

    P_e is that of alternate answer i, such as a refusal, P_f that of true answer i. No reference
    and no retain data. Probabilities, not their logarithms: an alternate that is all but impossible
    at the start has hardly a gradient.

    Source: Wang et al., LLM Unlearning via Loss Adjustment with Only Forget Data, ICLR 2025,
    arXiv:2410.11143.

    Differences from the official code:
    1. P is a mean over answer tokens. There prompt and padding positions enter as zeros, so that P
       shrinks as padding grows; the published learning rate (2e-7) does not carry over.
    2. The divergence of each pair of answers; there that of the mean P over a device's batch.
    """

    divergence: Literal["total_variation", "kl", "pearson", "jensen_shannon"] = "total_variation"
    """The f-divergence; that of the official code where none is named."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="none")

    def forget_loss(self, forget: Scores, alternate: Scores) -> Tensor:
        """(B,) one value per pair of answers, no unit."""
        e, f = (s.sum_by_row(s.token_logp.exp()) / s.lengths for s in (alternate, forget))
        return DIVERGENCES[self.divergence](e, f)
