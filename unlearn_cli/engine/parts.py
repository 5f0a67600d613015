"""What a way to hold a model in parts is asked; `fsdp2` and `zero3` are the two that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

UNSHARDED = "leave it out, or use --profile ddp"
"""What to do about what does not go with sharded models."""


class Parts(ABC):
    """A way to hold a model in parts, of which each process has one."""

    gives_gradients: ClassVar[bool]
    """Whether a gradient can be looked at where no optimizer is to have it."""

    @abstractmethod
    def wanted(self) -> bool:
        """Whether the launcher asked for it; UsageError where it wants more than is done here."""

    @abstractmethod
    def shard(self, model: nn.Module, device: torch.device) -> None:
        """Leave of a whole model, which may be on the CPU, this process's part, on its device.
        Processes call it in turn, not together."""

    @abstractmethod
    def shard_added(
        self, model: nn.Module, modules: Collection[nn.Module], there: Collection[nn.Parameter]
    ) -> None:
        """Shard what came into a sharded model: parameters of `modules` that were not `there`."""

    @abstractmethod
    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor of a model is in parts this way."""

    @abstractmethod
    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor that it holds, on every process, without gradient."""

    @abstractmethod
    def part(self, tensor: Tensor) -> Tensor:
        """What this process has of a tensor; writing to it changes the model."""

    @abstractmethod
    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        """Of a whole tensor, the same on every process, what `part` would give of it."""

    @abstractmethod
    def shape(self, tensor: Tensor) -> torch.Size:
        """That of the whole tensor."""

    def opened(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within, plain arithmetic may be done with the weights of a module."""
        return nullcontext()
