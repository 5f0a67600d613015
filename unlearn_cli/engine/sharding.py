"""Models whose weights are spread over the processes, and what needs a weight whole.

Between two forward passes each process holds its part of every parameter; within one, parameters
are gathered, used and let go: by FSDP2 (`fsdp2`) or DeepSpeed (`zero3`). So all processes take part
in every pass, and in every look at a whole weight. Of a model that is not sharded, all here gives
what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from torch import Tensor, nn

from unlearn_cli.engine.fsdp2 import FSDP2
from unlearn_cli.engine.parts import Parts
from unlearn_cli.engine.zero3 import Zero3
from unlearn_cli.errors import RunError, UsageError

T = TypeVar("T")
WAYS: Sequence[Parts] = (FSDP2(), Zero3())


def sharding(accelerator: Accelerator) -> Parts | None:
    """How the launcher wants models sharded, where it does and there is more than one process.

    Raises:
        UsageError: it wants more than is done here.
    """
    wanted = next((way for way in WAYS if way.wanted()), None)
    return wanted if int(accelerator.num_processes) > 1 else None


def shard(model: nn.Module, device: torch.device, way: Parts) -> None:
    """Leave of a model, which may be on the CPU, this process's part, on its device."""
    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise UsageError(
            "quantized weights cannot be sharded", where="launcher", hint="use --profile ddp"
        )
    way.shard(model, device)


def shard_added(
    model: nn.Module, modules: Collection[nn.Module], there: Collection[nn.Parameter]
) -> None:
    """Shard what came into a model, where that is: the parameters of `modules` that were not
    there."""
    if way := _way(next(iter(there))):
        way.shard_added(model, modules, there)


def _way(tensor: Tensor | None) -> Parts | None:
    return next((way for way in WAYS if tensor is not None and way.holds(tensor)), None)


def is_sharded(model: nn.Module) -> bool:
    """Whether every pass through a model needs all processes."""
    return _way(next(model.parameters(), None)) is not None


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a model in full, on every process."""
    way = _way(tensor)
    return way.whole(tensor) if way else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor of a model, without gradient; writing to it changes the
    model."""
    way = _way(tensor)
    return way.part(tensor) if way else tensor.detach()


def shape(tensor: Tensor) -> torch.Size:
    """The shape that a tensor of a model has in full."""
    way = _way(tensor)
    return way.shape(tensor) if way else tensor.shape


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every process, as the parts that `like` has."""
    way = _way(like)
    return way.spread(value, like) if way else value


def opened(module: nn.Module) -> AbstractContextManager[None]:
    """Within, plain arithmetic may be done with the weights of a module; every process must do the
    same."""
    way = _way(next(module.parameters(), None))
    return way.opened(module) if way else nullcontext()


def change_weight(parameter: Tensor, make: Callable[[Tensor], Tensor]) -> None:
    """Make of a parameter what `make` makes of its whole value; every process must ask alike."""
    changed = make(whole(parameter).detach())
    take({"": parameter}, {"": changed})


def take(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Give tensors of a model the values of the same names, which are whole.

    Raises:
        RunError: they are of other names, or of another shape.
    """
    for name in sorted({*tensors, *values}):
        if name not in tensors or name not in values or values[name].shape != shape(tensors[name]):
            raise RunError("is not of this model: its name or its shape", where=name)
    for name, tensor in tensors.items():
        part(tensor).copy_(part(spread(values[name], tensor)))


def live_state(model: nn.Module) -> dict[str, Any]:
    """The state of a model as its own tensors, not as what stands behind them: those that are in
    parts can be told."""
    return model.state_dict(keep_vars=True)


def whole_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The state of a model. Of a sharded one in full, on the CPU, and only where `keep` says so:
    every process must ask, and one writes."""
    if not is_sharded(model):
        return model.state_dict()
    found: dict[int, Tensor] = {}
    state = live_state(model)
    for value in state.values():  # names that share a weight go on sharing it
        if id(value) not in found:
            full = whole(value)
            found[id(value)] = full.cpu() if keep else full.new_empty(0)
    return {name: found[id(value)] for name, value in state.items()} if keep else {}


def whole_optimizer(optimizer: Any, *, keep: bool = True) -> dict[str, Any]:
    """The state of an optimizer, whole as `whole_weights` are."""

    def gathered(value: Any) -> Any:
        if not isinstance(value, Tensor) or _way(value) is None:
            return value
        full = whole(value)
        return full.cpu() if keep else None

    state: dict[str, Any] = optimizer.state_dict()
    of = {k: {name: gathered(v) for name, v in held.items()} for k, held in state["state"].items()}
    return state | {"state": of}


def load_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Give an optimizer the state that `whole_optimizer` gave, on however many processes."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def parts(k: int, value: Any) -> Any:
        per_weight = isinstance(value, Tensor) and value.shape == parameters[k].shape
        return spread(value, parameters[k]) if per_weight else value

    of = {k: {name: parts(k, v) for name, v in held.items()} for k, held in state["state"].items()}
    optimizer.load_state_dict({**state, "state": of})


def dealt(batches: Sequence[T], processes: int, me: int) -> Iterator[tuple[T, bool]]:
    """The batches of process number `me`, in rounds, each with whether its results count.

    A process that has none left in the last round repeats one: a sharded model needs all processes
    in every pass.
    """
    for first in range(0, len(batches), processes):
        number = first + me
        yield batches[number % len(batches)], number < len(batches)


def one_after_another(make: Callable[[], T], *, wanted: bool) -> T:
    """What `make` gives on this process. Where `wanted`, the processes of a machine call it in
    turn, so that its memory need not hold as many whole models as there are devices."""
    if not wanted:
        return make()
    state, made = PartialState(), list[T]()
    for turn in range(int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))):
        if turn == state.local_process_index:
            made.append(make())
        state.wait_for_everyone()
    return made[0]
