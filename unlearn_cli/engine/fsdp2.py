"""Models in parts by torch (FSDP2): a parameter is a DTensor, gathered with its block."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import torch
from accelerate.state import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unlearn_cli.engine.layers import blocks
from unlearn_cli.engine.parts import Parts
from unlearn_cli.errors import UsageError
from unlearn_cli.profiles import told


class FSDP2(Parts):
    """Within a pass a block's parameters are gathered, used and let go; what is around the blocks
    (embeddings, output layer) stays whole during a pass."""

    gives_gradients = True

    def wanted(self) -> bool:
        """The launcher's variables are read, not accelerate's state: accelerate shards on no CPU,
        though torch can."""
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
        return True

    def shard(self, model: nn.Module, device: torch.device) -> None:
        """As there."""
        mesh = init_device_mesh(device.type, (PartialState().num_processes,))
        for block in blocks(model).values():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        _always_in_parts(model)

    def shard_added(
        self, model: nn.Module, modules: Collection[nn.Module], there: Collection[nn.Parameter]
    ) -> None:
        """As there."""
        mesh: Any = next(iter(there))
        for module in modules:
            fully_shard(module, mesh=mesh.device_mesh, ignored_params=set(there))
            _always_in_parts(module)

    def holds(self, tensor: Tensor) -> bool:
        """As there."""
        return isinstance(tensor, DTensor)

    def whole(self, tensor: Any) -> Tensor:
        """As there."""
        full: Tensor = tensor.detach().full_tensor()
        return full

    def part(self, tensor: Any) -> Tensor:
        """As there."""
        mine: Tensor = tensor.detach().to_local()
        return mine

    def spread(self, value: Tensor, like: Any) -> Tensor:
        """As there, as a DTensor."""
        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)

    def shape(self, tensor: Tensor) -> torch.Size:
        """As there."""
        return tensor.shape


def _always_in_parts(module: nn.Module) -> None:
    """torch leaves the outermost parameters whole after a pass, so that who asks a model for its
    parameters between two passes would get others than those that are trained."""
    assert isinstance(module, FSDPModule)  # noqa: S101 - narrows the type
    module.set_reshard_after_forward(True)
