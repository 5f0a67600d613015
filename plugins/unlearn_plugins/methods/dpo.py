"""Direct preference optimization towards an alternate answer."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class DPO:
    """Direct preference optimization: prefer an alternate answer, such as a refusal, to the true.

        L_i = -(2 / beta) log sigma(beta [(S_i - S_i_ref) - (A_i - A_i_ref)])

    S_i = -log p(true answer i), A_i = -log p(alternate answer i), both summed over tokens.

    Source: Rafailov et al., Direct Preference Optimization, 2023, arXiv:2305.18290, equation 7; as
    an unlearning baseline in Zhang et al., 2024, arXiv:2404.05868, section 2.

    Differences from the paper:
    1. The factor 2 / beta, the convention of the unlearning literature, makes the loss comparable
       with NPO; without it the gradient is beta / 2 times as large.
    2. A retain term is added, by default `nll`.
    3. Both reference terms are computed once, before training.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    """Inverse temperature: the larger, the sooner a preference counts as learned."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="nll")

    def forget_loss(
        self, forget: Scores, alternate: Scores, reference: Scores, alternate_reference: Scores
    ) -> Tensor:
        """(B,) one value per pair of answers, at least 0."""
        rejected = forget.answer_logp - reference.answer_logp  # (B,) nats
        chosen = alternate.answer_logp - alternate_reference.answer_logp  # (B,) nats
        return -2 / self.beta * F.logsigmoid(self.beta * (chosen - rejected))
