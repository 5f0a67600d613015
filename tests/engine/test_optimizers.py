"""What optimizers keep, against what they really keep after a step."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from unlearn_cli.engine.optimizers import make_optimizer, state_bytes
from unlearn_cli.engine.train import Optimization


class Layers(nn.Module):
    """A tensor that bitsandbytes keeps in 8 bits, a small one, and a vector."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.ones(96, 128, dtype=dtype))
        self.small = nn.Parameter(torch.ones(8, 16, dtype=dtype))
        self.vector = nn.Parameter(torch.ones(32, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor"])
def test_the_state_has_the_bytes_that_are_said(name: str, dtype: torch.dtype) -> None:
    """Of every parameter the tensors of its state, tables that all share left out."""
    if name == "adamw_8bit" and not find_spec("bitsandbytes"):
        pytest.skip("the extra `quantized` is not installed")
    model = Layers(dtype)
    options = Optimization(1e-3, "constant", 0.0, 0.0, 1.0, 8, optimizer=name)
    optimizer = make_optimizer(model, options)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        kept = [v for k, v in state.items() if isinstance(v, torch.Tensor) and "qmap" not in k]
        found = sum(value.nbytes for value in kept)
        assert abs(state_bytes(parameter, name) - found) <= 16  # the step may be a plain number
