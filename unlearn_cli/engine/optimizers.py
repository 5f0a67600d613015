"""The optimizers of `[train]`, `[target]` and `[reinforce]`.

Each keeps its state in tensors and numbers, so that torch's weights-only loader reads it back. SGD
is not among them: `adafactor` keeps next to nothing, too, and its steps fit each tensor. Nor are
bitsandbytes' paged ones: what a checkpoint gives back to them is not paged any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from unlearn_cli.engine.train import Optimization


def make_optimizer(model: nn.Module, options: Optimization) -> Optimizer:
    """The optimizer of what is trained; biases and norm weights are not decayed, as everywhere in
    the field."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[options.optimizer](groups, options.learning_rate)


Groups = list[dict[str, Any]]


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
