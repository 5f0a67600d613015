"""What becomes of the gradients of a step: summed over the processes, clipped, applied.

By torch here, also where the model is sharded; by DeepSpeed in `zero_update`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.sharding import is_sharded, load_optimizer, whole, whole_optimizer


class Backward:
    """Where the gradient of a loss goes: into `.grad`, and there over the processes."""

    def __init__(self, accelerator: Accelerator, scorer: nn.Module) -> None:
        """`scorer` is a `Scorer`, prepared by accelerate where there are several processes."""
        self.accelerator, self.scorer = accelerator, scorer

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        """Around a forward and a backward pass; in the last one the processes add up gradients."""
        # Of a sharded model a whole gradient would not fit: its parts are summed at once.
        if last or is_sharded(self.accelerator.unwrap_model(self.scorer).model):
            return nullcontext()
        held: AbstractContextManager[None] = self.accelerator.no_sync(self.scorer)
        return held

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; processes average theirs."""
        self.accelerator.backward(loss)

    def summed(self, gradient: Tensor) -> Tensor:
        """A gradient that the processes have not added up yet, of all of them; a copy."""
        if isinstance(gradient, DTensor):
            return gradient.clone()  # summed already
        total: Tensor = self.accelerator.reduce(gradient)
        return total


class Update(Backward):
    """An optimizer of a model, and the way from gradients to its step."""

    def __init__(
        self, accelerator: Accelerator, scorer: Scorer, optimizer: Optimizer, limit: float
    ) -> None:
        """`limit` is to what norm gradients are clipped; 0 does not."""
        prepared: nn.Module
        self.optimizer: Any
        if is_sharded(scorer.model):
            prepared, self.optimizer = scorer, accelerator.prepare_optimizer(optimizer)
        else:
            prepared, self.optimizer = accelerator.prepare(scorer, optimizer)
        super().__init__(accelerator, prepared)
        self.limit = limit or math.inf
        self.scheduled = optimizer
        """Whose learning rates the next step takes."""

    def apply(self) -> float:
        """Take a step with the clipped gradients, and forget them.

        Returns:
            The norm that they had. Where it is not finite, no step was taken.
        """
        found = self.accelerator.clip_grad_norm_(self.scorer.parameters(), self.limit)
        norm = float(whole(found))
        if math.isfinite(norm) or self.accelerator.scaler is not None:
            self.optimizer.step()
            self.drop()
        return norm

    @property
    def was_skipped(self) -> bool:
        """Whether the last step was left out, as fp16 does that looks for its scale."""
        return bool(self.accelerator.optimizer_step_was_skipped)

    def drop(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad()

    def state(self, *, keep: bool) -> dict[str, Any]:
        """The optimizer's whole state, where `keep` says so; every process must ask."""
        return whole_optimizer(self.optimizer, keep=keep)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with a state that `state` gave, and with the weights that the model has now."""
        load_optimizer(self.optimizer, state)

    def close(self) -> None:
        """Let go of the model."""
