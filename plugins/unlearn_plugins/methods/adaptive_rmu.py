"""Adaptive RMU."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.hidden import Hidden
from unlearn_plugins.methods._direction import random_direction


@dataclass(frozen=True)
class AdaptiveRMU:
    """RMU whose target is as long as the activation itself, which makes deeper blocks usable.

        L = mean over tokens and values of (h - s |h_ref| u)^2      u as in RMU

    Source: Dang et al., On Effects of Steering Latent Representation for LLM Unlearning, AAAI 2025,
    arXiv:2408.06223.

    Differences from the official code:
    1. |h_ref| is that of each token; there the mean over the first batch of each topic, which
       depends on the batch.
    2. Those of RMU.
    """

    layer: str = "*.layers.7"
    """Pattern of the name of the block that is read; none behind it runs."""
    scale: Annotated[float, Gt(0)] = 5.0
    """Length of the target, in lengths of the activation; published: 3 to 10, by layer."""
    direction_seed: Annotated[int, Ge(0)] = 0
    """Decides the direction u."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(
        gamma=1.0,
        alpha=1200.0,
        retain="hidden",
        parameters=("*.layers.[5-7].mlp.down_proj.weight",),
    )

    @property
    def layers(self) -> tuple[str, ...]:
        """The one block that is read."""
        return (self.layer,)

    def forget_loss(self, hidden: Hidden, reference_hidden: Hidden) -> Tensor:
        """(P,) one value per token, prompts included."""
        h = hidden.layers[self.layer]  # (P, d)
        length: Tensor = reference_hidden.layers[self.layer].norm(dim=-1, keepdim=True)  # (P, 1)
        target = self.scale * length * random_direction(h, self.direction_seed)
        return (h - target).square().mean(-1)
