"""Gradient ascent that stops by itself, token by token."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt
from torch import Tensor
from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.scores import Scores


@dataclass(frozen=True)
class Myalgo:
    """Clipped gradient ascent: push a token down until it is forgotten, then leave it alone.

        L = mean_t max(c - l_t, 0)      l_t = -log p(token t), c = `ceiling`

    A token whose loss has reached the ceiling has no gradient, so the term is bounded below by 0
    and cannot destroy the model as plain ascent does. With a uniform guess over a vocabulary of V
    tokens l_t = ln V, so a ceiling above ln V (about 10.8 for 50,000 tokens) asks for more than
    not knowing.

    Source: no paper; `unlearn new-plugin` starts with it.
    """

    ceiling: Annotated[float, Gt(0)] = 5.0
    """Loss of a token, nats, at which it counts as forgotten."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(retain="nll")

    def forget_loss(self, forget: Scores) -> Tensor:
        """(N,) one value per answer token, nats, in [0, ceiling]."""
        return (self.ceiling + forget.token_logp).clamp(min=0)
