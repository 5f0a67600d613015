"""Gradient ascent on the forget set."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class GradAscent:
    """Gradient ascent: raise the loss of the forget answers, and nothing else.

        L = -mean_t l_t      l_t = -log p(token t), the mean over all answer tokens

    Unbounded below: with enough steps the model collapses. It is the baseline that shows why.

    Source: Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models,
    2022, arXiv:2210.01504, equation 1.

    Differences from the paper:
    1. The mean over tokens replaces the sum over a sequence, as in the benchmarks since TOFU:
       long answers weigh more than short ones, and the scale does not grow with their length.
    2. The paper stops at a threshold of extraction likelihood; here `[train]` decides.
    """

    defaults: ClassVar[MethodDefaults] = MethodDefaults(retain="none")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) log-probability of each answer token, nats: descending on it is ascending on l_t."""
        return forget.token_logp
