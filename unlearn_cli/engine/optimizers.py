"""The optimizers of `[train]`, `[target]` and `[reinforce]`.

Each keeps its state in tensors and numbers, so that torch's weights-only loader reads it back. SGD
is not among them: `adafactor` keeps next to nothing, too, and its steps fit each tensor. Nor are
bitsandbytes' paged ones: what a checkpoint gives back to them is not paged any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_cli.engine.sharding import shape

if TYPE_CHECKING:
    from unlearn_cli.engine.train import Optimization


def make_optimizer(model: nn.Module, options: Optimization) -> Optimizer:
    """The optimizer of what is trained; biases and norm weights are not decayed, as everywhere in
    the field."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if len(shape(p)) >= 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if len(shape(p)) < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[options.optimizer](groups, options.learning_rate)


def state_bytes(parameter: Tensor, optimizer: str) -> int:
    """What an optimizer keeps of a parameter; a step number of 4 bytes is everywhere."""
    count, size = parameter.numel(), parameter.element_size()
    if optimizer == "adafactor":  # a value for each row and each column
        shape = parameter.shape
        kept = count // shape[-1] + count // shape[-2] if parameter.ndim >= 2 else count
        return 4 + kept * size
    if optimizer == "adamw_8bit" and count >= SMALL:  # a byte, and a scale for a block
        return 2 * (count + 4 * -(-count // BLOCK))
    if optimizer == "adamw_8bit":
        return 2 * count * 4
    return 4 + 2 * count * size


Groups = list[dict[str, Any]]
SMALL, BLOCK = 4096, 256
"""Of bitsandbytes: values of the least tensor that is kept in 8 bits, and those with one scale."""


def _adamw(groups: Groups, learning_rate: float) -> Optimizer:
    devices = {p.device.type for group in groups for p in group["params"]}
    return torch.optim.AdamW(groups, lr=learning_rate, fused=devices <= {"cuda", "cpu"})


def _adamw_8bit(groups: Groups, learning_rate: float) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit

    made: Optimizer = AdamW8bit(groups, lr=learning_rate)
    return made


def _adafactor(groups: Groups, learning_rate: float) -> Optimizer:
    return torch.optim.Adafactor(groups, lr=learning_rate)


OPTIMIZERS: Mapping[str, Callable[[Groups, float], Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
}
