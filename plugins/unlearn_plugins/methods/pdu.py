"""Primal-dual unlearning."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults, Progress, Weights
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class PDU:
    """Primal-dual unlearning: flatten the logits of forget answers, under the constraint that the
    retain loss stays below epsilon.

        L_t = (max_v z_v - mean_v z_v)^2      lambda <- max(0, lambda + eta (L_retain - epsilon))

    z are the logits that predict answer token t. lambda is the weight of the retain term and
    starts as `alpha`; it moves once after each optimizer step, with the loss of the whole batch.

    Source: Entesari et al., Constrained Entropic Unlearning, 2025, arXiv:2506.05314.

    Differences from the official code:
    1. Logits are those that predict the answer tokens; there those at the answer tokens.
    2. One dual step an optimizer step, with the loss over all processes; there one a micro-batch.
    """

    epsilon: Annotated[float, Ge(0)] = 0.3
    """Retain loss that is allowed, nats a token: somewhat above that of the model at the start."""
    eta: Annotated[float, Gt(0)] = 5.0
    """Step of lambda for each nat of violation."""
    warmup_epochs: Annotated[float, Ge(0)] = 5.0
    """Epochs during which lambda stays as it is."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(gamma=1.0, alpha=100.0, retain="nll")
    retains: ClassVar[tuple[str, ...]] = ("nll", "kl")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token; 0 where all logits are equal."""
        logits = forget.logits
        return (logits.amax(-1) - logits.mean(-1)).square()

    def weights(self, progress: Progress) -> Weights:
        """The dual step."""
        now = progress.weights
        if not progress.losses or progress.epoch <= self.warmup_epochs:
            return now
        violation = progress.losses["retain"] - self.epsilon
        return replace(now, alpha=max(0.0, now.alpha + self.eta * violation))
