"""Task vector negation."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class TaskVector:
    """Task vector negation: learn the forget set even better, then go the other way.

        theta_new = theta - scale (theta_tuned - theta)

    theta_tuned is the model fine-tuned on the forget rows alone (token mean of -log p).

    Source: Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv:2212.04089; as an
    unlearning baseline in Shi et al., MUSE, 2024, arXiv:2407.06460.

    Differences from MUSE:
    1. Loss on answers alone where the rows have questions.
    2. Computed in float32 and rounded once to the type of the parameter.
    """

    scale: Annotated[float, Gt(0)] = 5.0
    """How far to go the other way; MUSE: 5, Ilharco et al.: 0 to 1, by validation."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=0.0, retain="none")
    retains: ClassVar[tuple[str, ...]] = ("none",)

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) nats an answer token: this stage learns the rows."""
        return -forget.token_logp

    def edit(self, before: Tensor, after: Tensor) -> Tensor:
        """The parameter mirrored at where it was."""
        return before - self.scale * (after - before)
