"""What the attacks by least likely tokens share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_of_lowest(values: NDArray[np.float64], share: float) -> float:
    """(n,) -> mean of the floor(share n) lowest, at least one of them."""
    count = max(1, int(share * len(values)))
    return float(np.sort(values)[:count].mean())
