"""Weighted gradient ascent."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class WGA:
    """Weighted gradient ascent: what is already unlikely is left alone.

        L_t = stopgrad(p_t)^beta log p_t

    With beta = 0 it is gradient ascent.

    Source: Wang et al., Rethinking LLM Unlearning Objectives (G-effect), ICLR 2025,
    arXiv:2502.19301.

    Differences from the official code: none known. Its code has beta 5 where none is given, the
    paper several; the default here is that of open-unlearning.
    """

    beta: Annotated[float, Ge(0)] = 1.0
    """How fast the weight falls with the probability."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) nats an answer token, at most 0."""
        weight = (self.beta * forget.token_logp.detach()).exp()  # p^beta
        return weight * forget.token_logp
