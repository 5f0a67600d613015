"""Simple negative preference optimization."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class SimNPO:
    """Simple NPO: negative preference optimization by the mean over tokens, with no reference.

        L_i = -(2 / beta) log sigma(beta (M_i - delta))      M_i = -log p(answer i) / length of i

    Source: Fan et al., Simplicity Prevails: Rethinking Negative Preference Optimization for LLM
    Unlearning, 2024, arXiv:2410.07163, equation 4.

    The defaults are the paper's settings for TOFU forget10; forget05 took beta 2.5, gamma 0.1375.

    Differences from the paper:
    1. The margin stands inside beta, as in the official code; the paper's margin is
       gamma_paper = beta * delta. At 0, the default, they agree.
    2. `gamma` is here, as for every method, the weight of the forget term, not that margin.
    """

    beta: Annotated[float, Gt(0)] = 4.5
    """Inverse temperature: the larger, the sooner an answer counts as forgotten."""
    delta: float = 0.0
    """Mean loss of a token, nats, that counts as forgotten: the larger, the more pressure."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=0.125, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(B,) one value per answer, at least 0."""
        excess = -forget.answer_mean_logp - self.delta  # (B,) nats, M_i - delta
        return -2 / self.beta * F.logsigmoid(self.beta * excess)
