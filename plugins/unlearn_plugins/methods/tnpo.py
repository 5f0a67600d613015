"""Token-wise negative preference optimization."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores
from unlearn_plugins.methods._token_npo import npo_weight


@dataclass(frozen=True)
class TNPO:
    """Token-wise NPO: gradient ascent that fades out token by token, not answer by answer.

        L_t = -w_t l_t      w_t = 2 p_t^beta / (p_t^beta + p_ref_t^beta), held constant

    l_t = -log p_t. At the start every weight is 1: gradient ascent on the token mean.

    Source: Wang et al., Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond,
    ICLR 2025, arXiv:2502.19301.

    Differences from the official code:
    1. No 1e-5 in the denominator. There the weight of a token that was improbable from the start
       (at beta 4, below p = 0.05) is near 0; here it is 1.
    2. The retain term is an option: `none` and `kl` are its tnpo and tnpo_kl, `nll` is as for NPO;
       `kl` is taken at answer tokens alone.
    """

    beta: Annotated[float, Gt(0)] = 4.0
    """Inverse temperature: the larger, the sooner a token counts as forgotten."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        """(N,) one value per answer token, nats, at most 0."""
        return npo_weight(forget, reference, self.beta) * forget.token_logp
