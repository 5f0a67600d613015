"""Models whose weights are spread over the processes (FSDP2), and what needs a weight whole.

Between two forward passes each process holds its part of every parameter, a DTensor; within one, a
block's parameters are gathered, used and let go. So all processes take part in every pass, and in
every look at a whole weight. Of a model that is not sharded, all here gives what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unlearn_cli.engine.layers import blocks
from unlearn_cli.errors import UsageError

T = TypeVar("T")
UNSHARDED = "leave it out, or use --profile ddp"
"""What to do about what does not go with sharded models."""


def sharding(accelerator: Accelerator) -> bool:
    """Whether the launcher wants models sharded, and there is more than one process.

    Its variables are read, not accelerate's state: accelerate shards on no CPU, though torch can.

    Raises:
        UsageError: it wants more than is done here.
    """
    if not told("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION") != "2" or told("FSDP_OFFLOAD_PARAMS"):
        raise UsageError(
            "FSDP goes with fsdp_version: 2 and fsdp_offload_params: false",
            where="launcher",
            hint="use --profile fsdp2, or the file that `unlearn profile fsdp2` names",
        )
    # With this set, transformers would leave all processes but the first without weights.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return int(accelerator.num_processes) > 1


def told(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "false").lower() == "true"


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave of a model, which may be on the CPU, this process's part, on its device.

    Each decoder block is gathered by itself; what is around them (embeddings, output layer) stays
    whole during a pass.
    """
    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise UsageError(
            "quantized weights cannot be sharded", where="launcher", hint="use --profile ddp"
        )
    mesh = init_device_mesh(device.type, (PartialState().num_processes,))
    for block in blocks(model).values():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    _always_in_parts(model)


def shard_added(modules: Collection[nn.Module], there: Collection[nn.Parameter]) -> None:
    """Shard what came into a sharded model: the parameters of `modules` that were not there."""
    mesh: Any = next(iter(there))
    for module in modules:
        fully_shard(module, mesh=mesh.device_mesh, ignored_params=set(there))
        _always_in_parts(module)


def _always_in_parts(module: nn.Module) -> None:
    """torch leaves the outermost parameters whole after a pass, so that who asks a model for its
    parameters between two passes would get others than those that are trained."""
    assert isinstance(module, FSDPModule)  # noqa: S101 - narrows the type
    module.set_reshard_after_forward(True)


def is_sharded(model: nn.Module) -> bool:
    """Whether every pass through a model needs all processes."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a model in full, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor of a model, without gradient; writing to it changes the
    model."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every process, as the parts that `like` has."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def change_weight(parameter: Tensor, make: Callable[[Tensor], Tensor]) -> None:
    """Make of a parameter what `make` makes of its whole value; every process must ask alike."""
    changed = make(whole(parameter.detach()))
    part(parameter).copy_(part(spread(changed, parameter)))


def whole_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The state of a model. Of a sharded one in full, on the CPU, and only where `keep` says so:
    every process must ask, and one writes."""
    if not is_sharded(model):
        return model.state_dict()
    found: dict[int, Tensor] = {}
    state = model.state_dict(keep_vars=True)
    for value in state.values():  # names that share a weight go on sharing it
        if id(value) not in found:
            full = whole(value.detach())
            found[id(value)] = full.cpu() if keep else full.new_empty(0)
    return {name: found[id(value)] for name, value in state.items()} if keep else {}


def whole_optimizer(optimizer: Any, *, keep: bool = True) -> dict[str, Any]:
    """The state of an optimizer, whole as `whole_weights` are."""

    def gathered(value: Any) -> Any:
        if not isinstance(value, DTensor):
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
