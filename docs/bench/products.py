"""The limit of a step: its bare products of matrices, and nothing around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from unlearn_cli.engine.unlearning import Unlearning


def products(start: Unlearning, dtype: torch.dtype) -> Callable[[], None]:
    """What runs the products of the first step in a type: of each linear layer its output, and the
    gradients of its input and of its weight. The output layer sees answer tokens alone."""
    model, work = start.loaded.model, start.work
    step = work.plan.steps[0]
    rows = [work.streams["forget"][row] for row in step.forget]
    rows += [work.streams["retain"][row] for row in step.retain]
    tokens = sum(len(row.input_ids) for row in rows)
    answers = sum(row.end - row.start for row in rows)
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    made = [_operands(layer, answers if layer is head else tokens, dtype) for layer in layers]

    @torch.no_grad()
    def run() -> None:
        for inputs, weight, gradient in made:
            inputs @ weight.T, gradient @ weight, gradient.T @ inputs

    return run


def _operands(
    layer: nn.Linear, rows: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = layer.weight.detach().to(dtype)
    shape = (rows, layer.in_features), (rows, layer.out_features)
    inputs, gradient = (torch.randn(s, dtype=dtype, device=weight.device) for s in shape)
    return inputs, weight, gradient
