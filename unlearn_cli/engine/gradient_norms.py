"""How far the loss of a row pulls at the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.generate import evaluating
from unlearn_cli.engine.lora import own_parameters
from unlearn_cli.engine.quantized import dequantized
from unlearn_cli.engine.sharding import is_sharded, whole


def gradient_norms(scorer: Any, items: Sequence[Encoded]) -> list[float]:
    """Of each row, the mean over the parameter tensors of the norm of the mean loss's gradient.

    All tensors of the model itself, whatever is trained; nothing is left in their `.grad`. Of a
    sharded model all processes must take the same rows, since they add up their gradients.
    """
    norms = []
    with dequantized(scorer.model), evaluating(scorer), torch.enable_grad():
        parameters = own_parameters(scorer.model)
        trained = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        norms += [float(gradient_norm(scorer, item, parameters)) for item in items]
        for parameter, was in zip(parameters, trained, strict=True):
            parameter.requires_grad_(was)
    return norms


def gradient_norm(scorer: Any, item: Encoded, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of one row, with the parameters that require gradients."""
    loss = -scorer([item]).token_logp.mean()
    found = [whole(gradient.norm()) for gradient in _gradients(loss, scorer, parameters)]
    return torch.stack(found).mean()


def _gradients(loss: Tensor, scorer: Any, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Of the parameters that the loss depends on."""
    if is_sharded(scorer.model):  # the parts of a gradient exist only where `backward` puts them
        loss.backward()  # type: ignore[no-untyped-call]
        found: Sequence[Tensor | None] = [parameter.grad for parameter in parameters]
        scorer.zero_grad()
    else:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]
