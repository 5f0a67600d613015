"""Who's Harry Potter."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class WHP:
    """Who's Harry Potter: learn what a model would say that does not know, from one that knows
    better.

        z_generic = z_ref - strength relu(z_reinforced - z_ref)
        L_t = -log softmax(z)_v, v = arg max of z_generic      (or softmax of z_generic as target)

    What the reinforced model raises is what is special to the forget rows.

    Source: Eldan and Russinovich, Who's Harry Potter?, 2023, arXiv:2310.02238, section 2; as a
    baseline in Shi et al., MUSE, 2024, arXiv:2407.06460.

    Differences from the paper and MUSE:
    1. No dictionary replaces names by generic ones; the labels come from the logits alone.
    2. Answer tokens alone where the rows have questions.
    3. A model is trained to it; MUSE combines the logits of two models whenever it answers.
    """

    strength: Annotated[float, Gt(0)] = 5.0
    """How far to go from what is special; the paper (from memory): 5."""

    labels: Literal["argmax", "softmax"] = "argmax"
    """What is learned of z_generic; the paper: its arg max."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=1.0, retain="none")

    def forget_loss(self, forget: Scores, reference: Scores, reinforced: Scores) -> Tensor:
        """(N,) nats an answer token, at least 0."""
        special = (reinforced.logits - reference.logits).relu()  # (N, V)
        generic = reference.logits - self.strength * special
        target = generic.argmax(-1) if self.labels == "argmax" else generic.softmax(-1)
        return F.cross_entropy(forget.logits, target, reduction="none")
