"""Membership inference: can the forget rows be told from rows that were never seen?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unlearn_cli.api import MetricName, Number, Table
from unlearn_plugins.metrics._attack import auc, rows, true_positive_rate


@dataclass(frozen=True)
class MIA:
    """AUC of each attack between the forget rows and a holdout, and its true positives at 1 % false
    ones.

    An attack is a row metric that was measured on both sets, low for members, or `reference`: loss
    minus the loss of the retain reference on the same row. AUC, in [0, 1], is the probability that
    a forget row scores below a holdout row, ties counting half: 1 where the forget rows are
    memorised, 1/2 where the two cannot be told apart, less where the model is too surprised by
    them. The ideal is the value of the retain reference, which is 1/2 only if the sets are alike.
    The second figure is the share of forget rows below all but 1 % of the holdout rows.

    Source: OpenUnlearning (arXiv:2506.12618), section on privacy; Carlini et al. 2022
    (arXiv:2112.03570) for the rate at few false positives.
    """

    attacks: tuple[MetricName, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus", "gradient_norm")
    """Row metrics that attack, where they were measured."""
    members: str = "forget"
    """Set of the rows that were learned."""
    nonmembers: str = "holdout"
    """Set of rows that no model has seen."""

    def summary(self, table: Table, reference: Table | None) -> Mapping[str, Number]:
        """`ATTACK.auc` and `ATTACK.tpr_at_1_percent_fpr`; nothing where no attack was measured."""
        found = {
            name: (rows(table, self.members, name), rows(table, self.nonmembers, name))
            for name in self.attacks
        }
        if reference:
            found["reference"] = (
                _beyond(table, reference, self.members),
                _beyond(table, reference, self.nonmembers),
            )
        return {
            f"{name}.{figure}": number
            for name, (ours, others) in found.items()
            if ours and others
            for figure, number in _figures(ours, others).items()
        }


def _figures(ours: Mapping[str, float], others: Mapping[str, float]) -> Mapping[str, Number]:
    members, strangers = (np.array([*values.values()]) for values in (ours, others))
    count = len(members) + len(strangers)
    return {
        "auc": Number(auc(members, strangers), "reference", n=count),
        "tpr_at_1_percent_fpr": Number(
            true_positive_rate(members, strangers, 0.01), "reference", n=count
        ),
    }


def _beyond(table: Table, reference: Table, set_: str) -> Mapping[str, float]:
    """Loss minus that of the reference, of the rows that both have."""
    ours, theirs = rows(table, set_, "loss"), rows(reference, set_, "loss")
    return {id_: ours[id_] - theirs[id_] for id_ in ours if id_ in theirs}
