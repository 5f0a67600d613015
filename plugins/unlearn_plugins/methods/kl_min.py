"""KL minimization: ascend on forget, stay close to the reference on retain."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class KLMin:
    """KL minimization: ascend on the forget answers while the retain answers keep the whole
    distribution that they had.

        L = -gamma mean_t l_t(forget) + alpha mean_t KL(p_ref || p)(retain)

    l_t = -log p(token t). The forget term is unbounded below and wins late in training. With
    `retain = "nll"` it is `grad_diff`.

    Source: Maini et al., TOFU, 2024, arXiv:2401.06121, section 4 ("KL Minimization").

    Differences from TOFU:
    1. The divergence is taken at answer tokens, or at all tokens with `kl_positions = "all"`, but
       never at padding, which there fills each row up to 500: the same alpha is stronger here.
    2. Each mean runs over the tokens of the whole batch, not of a device's share of it.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="kl")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) log-probability of each answer token, nats; the engine adds the divergence."""
        return forget.token_logp
