"""Gradient difference: ascend on forget, descend on retain."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class GradDiff:
    """Gradient difference: ascend on the forget answers while descending on the retain answers.

        L = -gamma mean_t l_t(forget) + alpha mean_t l_t(retain)      l_t = -log p(token t)

    The forget term is still unbounded below and wins late in training.

    Source: Liu et al., Continual Learning and Private Unlearning, 2022, arXiv:2203.12817; for
    language models Maini et al., TOFU, 2024, arXiv:2401.06121 ("Gradient Difference").

    Differences from TOFU:
    1. Each mean runs over the tokens of the whole batch, not of a device's share of it, so the
       result does not depend on the number of devices.
    2. With `retain = "kl"` it is TOFU's "KL Minimization", with the divergence taken at answer
       tokens alone, not at prompt and padding positions.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) log-probability of each answer token, nats; the engine adds the retain term."""
        return forget.token_logp
