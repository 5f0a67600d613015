"""Training on refusals."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class IdkNLL:
    """Training on refusals: learn an alternate answer, such as "I don't know", to each forget
    question.

        L = -log p(alternate answers), token mean

    Source: Maini et al., TOFU, COLM 2024, arXiv:2401.06121, "preference optimization".

    Differences from the official code:
    1. Refusals and retain answers have a token mean each, weighted by gamma and alpha; there one
       mean over both, in which short refusals count for little.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, alternate: Scores) -> Tensor:
        """(N,) nats a token of the alternate answers, at least 0."""
        return -alternate.token_logp
