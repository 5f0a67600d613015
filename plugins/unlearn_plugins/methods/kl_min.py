"""KL minimisation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class KLMin:
    """KL minimisation: gradient ascent on the forget answers, while the distribution on the retain
    answers stays that of the model at the start.

        L = log p(forget answers), token mean      retain term: KL(reference || model)

    Source: Maini et al., TOFU, COLM 2024, arXiv:2401.06121, "KL minimization".

    Differences from the official code:
    1. The KL is taken at answer tokens; `method.kl_positions = "all"` takes it at all tokens, but
       never at padding, which there dilutes it.
    2. The reference is scored once, before training.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="kl")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) nats an answer token, at most 0."""
        return forget.token_logp
