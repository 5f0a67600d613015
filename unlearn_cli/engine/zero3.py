"""Models in parts by DeepSpeed (ZeRO-3).

Between two passes a parameter has no values and no shape: this process's part is its `ds_tensor`,
a piece of the whole laid flat, filled up at the end. DeepSpeed's hooks gather the parameters of a
layer before it runs, forward and backward, and let go of them afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import PartialState
from torch import Tensor, nn

from unlearn_cli.engine import zero
from unlearn_cli.engine.parts import Parts

CONFIGURATION = {
    "stage": 3,
    # Nothing stays whole behind the layer that needs it: weights may be changed between two passes.
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_prefetch_bucket_size": 0,
    "reduce_bucket_size": 2**24,  # values; DeepSpeed makes room for them at once
}


class Zero3(Parts):
    """A layer's parameters are gathered when it runs. DeepSpeed cuts a gradient into parts on its
    way to the optimizer, and not before."""

    gives_gradients = False

    def wanted(self) -> bool:
        """As there; `zero.take_over` has looked at the rest."""
        return zero.stage() == 3

    def shard(self, model: nn.Module, device: torch.device) -> None:
        """As there."""
        model.to(device)
        _cut(model)
        gather_in_passes(model)

    def shard_added(
        self, model: nn.Module, modules: Collection[nn.Module], there: Collection[nn.Parameter]
    ) -> None:
        """As there."""
        stop_gathering(model)
        _cut(model)
        gather_in_passes(model)

    def holds(self, tensor: Tensor) -> bool:
        """As there."""
        return hasattr(tensor, "ds_tensor")

    def whole(self, tensor: Tensor) -> Tensor:
        """As there."""
        with zero.library().zero.GatheredParameters([tensor]):
            return tensor.detach()  # DeepSpeed takes this memory from the parameter, not from us

    def part(self, tensor: Any) -> Tensor:
        """As there, laid flat; behind the end of the whole there may be more."""
        held: Tensor = tensor.ds_tensor
        return held.detach()

    def spread(self, value: Tensor, like: Any) -> Tensor:
        """As there."""
        count = like.ds_tensor.numel()
        first = PartialState().process_index * count
        mine = value.detach().flatten()[first : first + count].to(like.device)
        return nn.functional.pad(mine, (0, count - mine.numel()))

    def shape(self, tensor: Any) -> torch.Size:
        """As there."""
        found: torch.Size = tensor.ds_shape
        return found

    @contextmanager
    def opened(self, module: nn.Module) -> Iterator[None]:
        """As there: all of them are whole, and all processes have the first one's afterwards."""
        with zero.library().zero.GatheredParameters([*module.parameters()], modifier_rank=0):
            yield


def _cut(model: nn.Module) -> None:
    """Leave this process's part of every parameter that is whole."""

    class Cut(zero.library().zero.Init):  # type: ignore[misc]
        """DeepSpeed would send the first process's to all, which are not here at the same time: one
        model after the other is loaded, and all are the same."""

        def _zero_init_param(self, param: Any) -> None:
            self._convert_to_deepspeed_param(param)
            param.partition()

    Cut(module=model, config_dict_or_path=zero.configuration(dict(CONFIGURATION), ()))


def gather_in_passes(model: Any) -> None:
    """Let each layer gather its parameters when it runs."""
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.utils.timer import NoopTimer

    model.gathering = DeepSpeedZeRoOffload(
        model,
        NoopTimer(),
        zero.configuration(dict(CONFIGURATION), ()),
        overlap_comm=False,
        prefetch_bucket_size=0,
        max_reuse_distance=0,
        param_persistence_threshold=0,
    )
    one_by_one(model.gathering)


def one_by_one(gathering: Any) -> None:
    """Let DeepSpeed not learn the order of layers, which is what it fetches them ahead by. Here it
    is seldom the same twice (evaluation, answers, passes that end early), what DeepSpeed then drops
    it has all processes agree upon in every pass, and what it learned keeps a model alive for good.
    """
    from deepspeed.runtime.zero import parameter_offload

    gathering.get_param_coordinator().reset_step = lambda: None
    parameter_offload.FWD_MODULE_STACK.clear()  # it holds every model that ever was, too


def stop_gathering(model: Any) -> None:
    """Take back what `gather_in_passes` did."""
    model.gathering.destroy()
    for module in model.modules():
        for hook in ("pre_bwd_fn", "post_bwd_fn"):  # of what was destroyed: another keeps them
            module.__dict__.pop(hook, None)
