"""What membership inference makes of the values of two sets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api import Table
from unlearn_plugins.metrics.forget_quality import NO_REFERENCE, OTHER_ROWS

__all__ = ["NO_REFERENCE", "OTHER_ROWS", "auc", "rows", "true_positive_rate"]

Values = NDArray[np.float64]


def rows(table: Table, set_: str, metric: str) -> Mapping[str, float]:
    """Row id -> value, those without one left out."""
    found = table.rows.get(set_, {}).get(metric, {})
    return {id_: value for id_, value in found.items() if value is not None}


def auc(members: Values, others: Values) -> float:
    """Probability, in [0, 1], that a member's score is below another row's; ties count half."""
    below = np.sum(members[:, None] < others[None, :])
    equal = np.sum(members[:, None] == others[None, :])
    return float((below + equal / 2) / (len(members) * len(others)))


def true_positive_rate(members: Values, others: Values, false_positives: float) -> float:
    """Share of members below the highest threshold that at most this share of the others is below
    or at: rows at or below it are called members. In [0, 1]."""
    allowed = int(np.floor(false_positives * len(others) + 1e-9))
    ceiling = np.sort(others)[allowed] if allowed < len(others) else np.inf
    return float(np.mean(members < ceiling))
