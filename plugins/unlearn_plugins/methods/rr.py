"""Representation rerouting."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import MethodDefaults, Progress, Weights
from unlearn_cli.api.hidden import Hidden
from unlearn_plugins.methods._direction import random_direction


@dataclass(frozen=True)
class RR:
    """Representation rerouting ("circuit breakers"): activations of forget text turn away from
    where they were, those of retain text stay.

        L = mean over tokens and blocks of max(0, cos(h, h_ref + tilt |h_ref| u))

    The weights change on the way, from all forget to half and half, after t of T steps:
    gamma (1 - t / 2T) and alpha t / 2T.

    Source: Zou et al., Improving Alignment and Robustness with Circuit Breakers, NeurIPS 2024,
    arXiv:2406.04313, algorithm 1.

    Differences from the official code:
    1. The retain distance is taken at the same blocks as the forget loss; there at all blocks.
    2. All parameters up to the last block are trained, or those named; there a LoRA adapter.
    3. The tilt, along a random direction u. Without it the gradient at the start is 0, as the
       cosine is at its maximum, and rounding alone decides where a run goes.
    """

    read: tuple[str, ...] = ("*.layers.10", "*.layers.20")
    """Patterns of the names of the blocks that are read; none behind the last runs."""

    tilt: Annotated[float, Ge(0)] = 0.01
    """How far the direction to turn away from is off that of the reference."""

    defaults: ClassVar[MethodDefaults] = MethodDefaults(
        gamma=10.0, alpha=10.0, retain="hidden_norm"
    )

    @property
    def layers(self) -> tuple[str, ...]:
        """The blocks that are read."""
        return self.read

    def forget_loss(self, hidden: Hidden, reference_hidden: Hidden) -> Tensor:
        """(P,) one value per token, prompts included, between 0 and 1."""
        pairs = [(hidden.layers[name], reference_hidden.layers[name]) for name in self.read]
        cosines = [F.cosine_similarity(now, self._tilted(before), dim=-1) for now, before in pairs]
        return torch.stack(cosines).relu().mean(0)

    def _tilted(self, before: Tensor) -> Tensor:
        length: Tensor = before.norm(dim=-1, keepdim=True)  # (P, 1)
        return before + self.tilt * length * random_direction(before, seed=0)

    def weights(self, progress: Progress) -> Weights:
        """From forget alone to half and half."""
        base, half = progress.base, progress.step / (2 * progress.total)
        return Weights(base.gamma * (1 - half), base.alpha * half)
