"""Learning to refuse."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class IdkNLL:
    """Learning to refuse: fine-tune on alternate answers, such as "I don't know", and on retain.

        L = gamma mean_t l_t(alternate) + alpha mean_t l_t(retain)      l_t = -log p(token t)

    The true answers do not enter: they are displaced, not pushed away.

    Source: Maini et al., TOFU, 2024, arXiv:2401.06121, section 4 ("Preference Optimization").

    Differences from TOFU:
    1. Two means with a weight each. There one mean over the tokens of both, so that short refusals
       count for little beside long retain answers.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, alternate: Scores) -> Tensor:
        """(N,) loss of each token of the alternate answers, nats, at least 0."""
        return -alternate.token_logp
