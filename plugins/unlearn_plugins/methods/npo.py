"""Negative preference optimization."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class NPO:
    """Negative preference optimization: gradient ascent that fades out as an answer is forgotten.

        L_i = -(2 / beta) log sigma(beta (S_i - S_i_ref))      S_i = -log p(answer i), summed

    At the start L_i = (2 / beta) ln 2 and its gradient is that of -S_i (gradient ascent on the
    sum); the weight falls to 0 as the answer becomes unlikely. As beta -> 0 it is gradient ascent.

    Source: Zhang et al., Negative Preference Optimization, COLM 2024, arXiv:2404.05868, equation 3.

    Differences from the official code:
    1. S_i_ref is computed once, before training, rather than by a second model at every step.
    2. The retain term is an option: `none`, `nll` and `kl` are its NPO, NPO-RT and NPO-KL; `kl` is
       taken at answer tokens alone.
    3. `length_normalized`, off, takes means over tokens instead of sums: with sums and long texts
       a small change of every token saturates the loss.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Inverse temperature: the larger, the sooner an answer counts as forgotten."""

    length_normalized: bool = False
    """Compare means over the tokens of an answer rather than sums."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        """(B,) one value per answer, at least 0."""
        log_ratio = forget.answer_logp - reference.answer_logp  # (B,) nats, S_i_ref - S_i
        if self.length_normalized:
            log_ratio = log_ratio / forget.lengths
        return -2 / self.beta * F.logsigmoid(-self.beta * log_ratio)
