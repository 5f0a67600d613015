"""Alternate preference optimization."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class AltPO:
    """Alternate preference optimization: prefer other plausible answers, which the model itself
    made before unlearning, to the true one.

        L_i = -(2 / beta) log sigma(beta [(S_i - S_i_ref) - (A_i - A_i_ref)])

    S_i = -log p(true answer i), A_i = -log p(alternate answer i), both summed over tokens. The
    answers come from `data.alternates = "model"` with the table `[alternates]`.

    Source: Mekala et al., Alternate Preference Optimization for Unlearning Factual Knowledge in
    Large Language Models, COLING 2025, arXiv:2409.13474.

    Differences from the official code:
    1. An epoch sees each question once, with one of its alternates, drawn anew; there five times,
       once with each, so that five epochs here are one there.
    2. Alternates that say the same as the true answer, or as each other, are drawn again.
    3. Both reference terms are computed once, before training.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Inverse temperature: the larger, the sooner a preference counts as learned."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")
    own_alternates: ClassVar[bool] = True

    def forget_loss(
        self, forget: Scores, alternate: Scores, reference: Scores, alternate_reference: Scores
    ) -> Tensor:
        """(B,) one value per pair of answers, at least 0."""
        rejected = forget.answer_logp - reference.answer_logp  # (B,) nats
        chosen = alternate.answer_logp - alternate_reference.answer_logp  # (B,) nats
        return -2 / self.beta * F.logsigmoid(self.beta * (chosen - rejected))
