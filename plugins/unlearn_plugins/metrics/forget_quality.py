"""Forget quality: can the model be told from one that never saw the forget set?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import ks_2samp

from unlearn_cli.api import Number, Table

NO_REFERENCE = (
    "no retain reference to compare with; give the model that never saw the forget set with "
    "`--set retain_reference.path=MODEL`, or its stored evaluation with "
    "`--set retain_reference.evaluation=FILE`"
)
OTHER_ROWS = (
    "the retain reference was evaluated on other forget rows; evaluate it again with the same "
    "data and `rows`"
)


@dataclass(frozen=True)
class ForgetQuality:
    """p-value, in [0, 1], of the hypothesis that the forget set's truth ratios come from the same
    distribution as those of the retain reference.

    Two-sided, two-sample Kolmogorov-Smirnov test on the truth ratios R of the same rows under the
    model and under one trained without the forget set. Higher is better; above 0.05 the two cannot
    be told apart. Low says only that they differ, by too little forgetting or by too much.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2; `scipy.stats.ks_2samp`.

    Difference: without the reference, or where it was evaluated on other rows, the value is
    null.
    """

    def summary(self, table: Table, reference: Table | None) -> Number:
        """The p-value; `n` counts the rows with a truth ratio under both models."""
        if reference is None:
            return _null(NO_REFERENCE)
        ours, theirs = _truth_ratios(table), _truth_ratios(reference)
        if not any(value is not None for value in ours.values()):
            return _null(_why_missing(table))
        if ours.keys() != theirs.keys():
            return _null(OTHER_ROWS)
        return _compare(ours, theirs)


def _truth_ratios(table: Table) -> Mapping[str, float | None]:
    return table.rows.get("forget", {}).get("truth_ratio", {})


def _why_missing(table: Table) -> str:
    number = table.numbers.get("forget.truth_ratio")
    return f"the forget set has no truth ratio: {number.reason if number else 'not measured'}"


def _compare(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> Number:
    pairs = [(a, b) for a, b in ((ours[id_], theirs[id_]) for id_ in ours) if None not in (a, b)]
    if not pairs:
        return _null("no forget row has a truth ratio under both the model and the reference")
    p_value = ks_2samp(*zip(*pairs, strict=True)).pvalue
    return Number(float(p_value), "higher", n=len(pairs), skipped=len(ours) - len(pairs))


def _null(reason: str) -> Number:
    return Number(None, "higher", reason=reason)
