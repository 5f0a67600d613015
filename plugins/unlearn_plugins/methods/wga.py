"""Weighted gradient ascent."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class WGA:
    """Weighted gradient ascent: ascend on each token by how likely it still is.

        L_t = -p_t^beta l_t      l_t = -log p_t, the weight p_t^beta held constant

    With beta = 0 it is gradient ascent. Otherwise a token that is forgotten is let go, where
    gradient ascent pushes it hardest.

    Source: Wang et al., Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond,
    ICLR 2025, arXiv:2502.19301.

    The default beta is that of the official code; the paper's tables use several, open-unlearning
    1.0.

    Differences from the official code:
    1. The mean runs over the tokens of the whole batch, not of a device's share of it.
    """

    beta: Annotated[float, Ge(0)] = 5.0
    """Exponent of the weight: the larger, the sooner a token is let go."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token, nats, at most 0."""
        logp = forget.token_logp
        return (self.beta * logp).exp().detach() * logp
