"""Updates by DeepSpeed: each process keeps the optimizer of its part of the weights.

DeepSpeed takes the gradient of each micro-batch away, sums it over the processes and keeps a part
of it. With ZeRO-2 the model is whole on every process, with ZeRO-3 in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_cli.engine import zero3
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.sharding import spread
from unlearn_cli.engine.update import Update
from unlearn_cli.engine.zero import configuration, library

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight, besides the number of its steps."""


class ZeroUpdate(Update):
    """`scheduled` knows the weights and their learning rates, and takes no step; what DeepSpeed
    steps with is an optimizer of the same kind, of this process's part of each group laid flat."""

    def __init__(
        self, accelerator: Accelerator, scorer: Scorer, optimizer: Optimizer, limit: float
    ) -> None:
        self.accelerator, self.scorer, self.scheduled = accelerator, scorer, optimizer
        self.flat = torch.optim.AdamW([dict(group) for group in self._groups()])
        self.engine = self._engine(limit)
        self._begin()
        self._show_state()

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        """As elsewhere, though DeepSpeed adds up every gradient at once."""
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """As elsewhere."""
        self.engine.backward(self.engine(loss))

    def apply(self) -> float:
        """As elsewhere; DeepSpeed leaves out a step of a norm that is not finite."""
        for flat, group in zip(self.flat.param_groups, self._groups(), strict=True):
            flat["lr"] = group["lr"]
        self.engine.step()
        self.scheduled.step()  # it has no gradients; the schedule wants to have seen it
        return float(self.engine.get_global_grad_norm())

    @property
    def was_skipped(self) -> bool:
        """As elsewhere: never, since fp16 is refused."""
        return False

    def drop(self) -> None:
        """As elsewhere; those that DeepSpeed took go with it."""
        self.scheduled.zero_grad()

    def state(self, *, keep: bool) -> dict[str, Any]:
        """As elsewhere, in the form that the optimizer has without DeepSpeed."""
        from deepspeed.utils import safe_get_full_optimizer_state as full

        found: dict[int, dict[str, Any]] = {}
        for number, (weight, held) in enumerate(self._held()):
            values = {name: full(weight, name).to(held[name].dtype) for name in MOMENTS}
            if keep:
                cpu = {name: value.cpu() for name, value in values.items()}
                found[number] = {"step": held["step"].clone(), **cpu}
        return self.scheduled.state_dict() | {"state": found}

    def load(self, state: Mapping[str, Any]) -> None:
        """As elsewhere."""
        self.scheduled.load_state_dict({**state, "state": {}})
        self.engine.optimizer.refresh_fp32_params()  # from the weights that the model has now
        for number, (weight, held) in enumerate(self._held()):
            stored = state["state"].get(number)
            if stored is not None:  # of what no gradient has reached torch has no state
                held["step"].copy_(stored["step"])
                for name in MOMENTS:
                    self._put(weight, name, stored[name])

    def close(self) -> None:
        """As elsewhere; each weight gets memory of its own again."""
        self.engine.destroy()
        for weight, _ in self._held():
            weight.data = weight.data.clone()

    def _begin(self) -> None:
        """The state with which AdamW begins. DeepSpeed would look for what to give and take a step
        too early: where the first group has taken its own, and the second has no state."""
        for _, part in self._parts():
            step = torch.zeros((), device=part.device)
            empty = {name: torch.zeros_like(part) for name in MOMENTS}
            self.flat.state[part] = {"step": step, **empty}

    def _groups(self) -> list[dict[str, Any]]:
        """Of the weights; they are others after a state was loaded."""
        return [group for group in self.scheduled.param_groups if group["params"]]

    def _parts(self) -> Iterator[tuple[Sequence[nn.Parameter], Tensor]]:
        """Weights, in their order, and this process's part of them laid flat."""
        for group, flat in zip(self._groups(), self.flat.param_groups, strict=True):
            yield group["params"], flat["params"][0]

    def _held(self) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
        """Each weight, and the state of the part that this process keeps of it and others."""
        for weights, part in self._parts():
            for weight in weights:
                yield weight, self.flat.state[part]

    def _show_state(self) -> None:
        """Let DeepSpeed find the state of each weight."""
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _put(self, weight: nn.Parameter, name: str, value: Tensor) -> None:
        """Make a whole tensor the optimizer's state of a weight."""
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(weight, value, name)

    def _engine(self, limit: float) -> Any:
        weights = [weight for group in self._groups() for weight in group["params"]]
        return self._initialized(_Trained(weights), {"stage": 2}, limit)

    def _initialized(self, module: nn.Module, zero: dict[str, Any], limit: float) -> Any:
        types = {weight.dtype for group in self._groups() for weight in group["params"]}
        engine, *_ = library().initialize(
            model=module, optimizer=self.flat, config=configuration(zero, types, limit)
        )
        return engine


class _Trained(nn.Module):
    """What DeepSpeed sees of a model: the weights that it updates, and the loss."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class Zero3Update(ZeroUpdate):
    """Of a model in parts: DeepSpeed sees the model, since it gathers in the backward pass too."""

    @property
    def model(self) -> Any:
        """That which is in parts."""
        return self.scorer.model

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        """As elsewhere; what DeepSpeed's engine does before a pass, which goes through the model
        and not through it."""
        self.engine.optimizer.clear_backward_seen_flag()
        return super().passing(last=last)

    def backward(self, loss: Tensor) -> None:
        """As elsewhere; the loss gets what DeepSpeed's engine gives to what a pass returns."""
        from deepspeed.runtime.utils import register_output_backward_hooks

        register_output_backward_hooks(loss, self.engine._backward_prologue)
        self.engine.backward(loss)

    def apply(self) -> float:
        """As elsewhere. DeepSpeed would keep the gradients of weights that the next pass does not
        reach."""
        norm = super().apply()
        self.engine.optimizer.grad_partitions_flat_buffer.zero_()
        return norm

    def close(self) -> None:
        """As elsewhere: the model is in parts, as it was before."""
        self.engine.destroy()
        for weight in self.model.parameters():
            del weight._z3_optimizer  # it would keep all that the optimizer has
        zero3.gather_in_passes(self.model)

    def _parts(self) -> Iterator[tuple[Sequence[nn.Parameter], Tensor]]:
        held = self.engine.optimizer
        yield from zip(held.fp16_groups, held.fp32_partitioned_groups_flat, strict=True)

    def _show_state(self) -> None:
        """It looks for it when it is asked."""

    def _put(self, weight: nn.Parameter, name: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        # With a whole tensor DeepSpeed would miss what fills up the last process's part.
        safe_set_local_optimizer_state(weight, spread(value, weight), name)

    def _engine(self, limit: float) -> Any:
        zero3.stop_gathering(self.model)
        engine = self._initialized(self.model, zero3.CONFIGURATION, limit)
        zero3.one_by_one(engine.optimizer.parameter_offload)
        return engine
