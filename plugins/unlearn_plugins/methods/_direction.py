"""The random direction of RMU."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_direction(like: Tensor, seed: int) -> Tensor:
    """(d,) unit vector of values uniform in [0, 1) before they are normalised; d, device and type
    as the last dimension of `like`. The same seed gives the same bits on every process."""
    generator = torch.Generator().manual_seed(seed)
    values: Tensor = torch.rand(like.shape[-1], generator=generator)
    return F.normalize(values, dim=0).to(like)
