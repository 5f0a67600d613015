"""Model utility: what the model is still good for."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import harmonic_mean

from unlearn_cli.api import Number, Table

NOT_UTILITY = ("forget", "holdout")


@dataclass(frozen=True)
class ModelUtility:
    """Harmonic mean, in [0, 1], of what the model still can on every set but forget and holdout.

    Its parts are probability, ROUGE-L recall and the truth ratio's set value max(0, 1 - R), for
    each utility set: nine in TOFU, of retain, real authors and world facts. Where a set has
    `normalized_probability`, it takes the place of probability. Higher is better; a part that is 0
    makes the whole 0.

    Source: TOFU (Maini et al. 2024, arXiv:2401.06121), section 2.2.

    Difference: null, with the reason, where a part is null.
    """

    def summary(self, table: Table, reference: Table | None) -> Number:
        """The harmonic mean; `n` counts its parts."""
        names = [
            name for set_ in table.rows if set_ not in NOT_UTILITY for name in _parts(table, set_)
        ]
        if not names:
            return _null("there is no utility set; give retain rows in `[data]`")
        values: list[float] = []
        for name in names:
            number = table.numbers.get(name)
            if number is None or number.value is None:
                return _null(f"{name} has no value: {number.reason if number else 'not measured'}")
            values.append(number.value)
        return Number(harmonic_mean(values), "higher", n=len(values))


def _parts(table: Table, set_: str) -> list[str]:
    normalized = "normalized_probability" in table.rows[set_]
    probability = "normalized_probability" if normalized else "probability"
    return [f"{set_}.{metric}" for metric in (probability, "rouge", "truth_ratio")]


def _null(reason: str) -> Number:
    return Number(None, "higher", reason=reason)
