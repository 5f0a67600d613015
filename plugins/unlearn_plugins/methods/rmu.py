"""Representation Misdirection for Unlearning."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import Tensor

from unlearn_cli.api import MethodDefaults
from unlearn_cli.api.hidden import Hidden
from unlearn_plugins.methods._direction import random_direction


@dataclass(frozen=True)
class RMU:
    """Representation Misdirection for Unlearning: activations of forget text become c times a
    random direction u, those of retain text stay.

        L = mean over tokens and values of (h - c u)^2      u = r / |r|, r uniform in [0, 1)

    h is the output of one decoder block; the retain term is the same distance to the reference.

    Source: Li et al., The WMDP Benchmark, ICML 2024, arXiv:2403.03218, section 4.

    Differences from the official code:
    1. Padding does not enter.
    2. One direction for all topics, drawn from `direction_seed`; there each topic has its own.
    3. Trained parameters are chosen by name; there by their index 6 in blocks l-2 to l, which in
       Llama and Mistral is `mlp.down_proj.weight`, the default here.
    """

    layer: str = "*.layers.7"
    """Pattern of the name of the block that is read; none behind it runs."""
    coefficient: Annotated[float, Gt(0)] = 6.5
    """Length c of the target; published: 6.5 for Zephyr-7B, 20 in the code."""
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

    def forget_loss(self, hidden: Hidden) -> Tensor:
        """(P,) one value per token, prompts included."""
        h = hidden.layers[self.layer]  # (P, d)
        target = self.coefficient * random_direction(h, self.direction_seed)  # (d,)
        return (h - target).square().mean(-1)
