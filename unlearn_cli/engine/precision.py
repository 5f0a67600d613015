"""What half precision is too coarse for."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float64, which tests use, stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
