"""PrivLeak: does membership show more, or less, than in a model that never saw the rows?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from unlearn_cli.api import Number, Table
from unlearn_plugins.metrics._attack import NO_REFERENCE, auc, rows


@dataclass(frozen=True)
class PrivLeak:
    """100 (s - s_ref) / s_ref, in percent; s is 1 minus the AUC of the attack `min_k`.

    0 is ideal. Below 0 the forget rows still look learned, -100 where every one of them does. Above
    0 the model is more surprised by them than one that never saw them: it can be told, too.

    Source: Shi et al., MUSE, 2024, arXiv:2407.06460, C3. MUSE's own constants for `reference_auc`
    are 1 - 0.4772 (News) and 1 - 0.5393 (Books) for its retrained models.

    Difference from OpenUnlearning's code: null without a retain reference; there 1/2 is taken.
    """

    attack: str = "min_k"
    """The row metric that attacks."""
    reference_auc: Annotated[float, Gt(0), Lt(1)] | None = None
    """AUC of the retain reference, where it is known from elsewhere."""
    members: str = "forget"
    """Set of the rows that were learned."""
    nonmembers: str = "holdout"
    """Set of rows that no model has seen."""

    def summary(self, table: Table, reference: Table | None) -> Number:
        """The percentage."""
        found = self._auc(table)
        if found is None:
            what = f"{self.attack} was not measured on {self.members} and {self.nonmembers}"
            return Number(None, "reference", reason=what)
        known = self.reference_auc
        if known is None and reference:
            known = self._auc(reference)
        if known is None:
            return Number(None, "reference", reason=NO_REFERENCE)
        if known == 1:
            what = "the retain reference shows every member: its AUC is 1"
            return Number(None, "reference", reason=what)
        return Number(100 * ((1 - found) / (1 - known) - 1), "reference", n=self._count(table))

    def _auc(self, table: Table) -> float | None:
        values = [rows(table, set_, self.attack) for set_ in (self.members, self.nonmembers)]
        if not all(values):
            return None
        members, others = (np.array([*found.values()]) for found in values)
        return auc(members, others)

    def _count(self, table: Table) -> int:
        return sum(len(rows(table, s, self.attack)) for s in (self.members, self.nonmembers))
