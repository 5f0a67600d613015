"""Forget quality and model utility, against published and hand-made values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from unlearn_plugins.metrics.forget_quality import ForgetQuality
from unlearn_plugins.metrics.model_utility import ModelUtility

from unlearn_cli.api import Number, Table

TRUTH = "truth_ratio"


def ratios(values: Sequence[float | None]) -> Table:
    rows = {str(k): value for k, value in enumerate(values)}
    return Table({"forget": {TRUTH: rows}}, {})


@pytest.mark.parametrize(
    ("n", "k", "p_value"),
    [
        (40, 40, 1.860340e-23),
        (40, 17, 1.270814e-03),
        (40, 14, 1.430155e-02),
        (200, 200, 1.942643e-119),
        (200, 78, 5.867302e-14),
        (200, 77, 1.326106e-13),
        (300, 300, 1.480298e-179),
        (300, 119, 1.834066e-21),
        (400, 400, 1.063590e-239),
        (400, 149, 4.346200e-25),
        (400, 138, 1.662318e-21),
    ],
)
def test_forget_quality_has_the_published_p_values(n: int, k: int, p_value: float) -> None:
    """0..n-1 against itself shifted by k - 1/2 has the distance k/n, whose exact p-values are
    those that TOFU and OpenUnlearning publish."""
    a = np.arange(n, dtype=float)
    number = ForgetQuality().summary(ratios(list(a)), ratios(list(a + k - 0.5)))
    assert number.value == pytest.approx(p_value, rel=1e-6)
    assert (number.n, number.skipped) == (n, 0)


def test_the_reference_has_forget_quality_one() -> None:
    """Compared with itself, nothing can be told apart."""
    table = ratios([0.1, 0.7, 2.0])
    assert ForgetQuality().summary(table, table).value == pytest.approx(1)


def test_forget_quality_needs_the_reference() -> None:
    """Without it: null, and the reason names the option that would give one."""
    number = ForgetQuality().summary(ratios([0.5]), None)
    assert number.value is None
    assert "--set retain_reference.path=MODEL" in number.reason


def test_forget_quality_refuses_other_rows() -> None:
    """Distributions over different questions are not compared."""
    number = ForgetQuality().summary(ratios([0.5, 0.6]), ratios([0.5, 0.6, 0.7]))
    assert number.value is None
    assert "other forget rows" in number.reason


def test_forget_quality_says_why_there_are_no_truth_ratios() -> None:
    """The reason of the truth ratio is passed on."""
    table = Table(
        {"forget": {TRUTH: {"0": None}}},
        {"forget.truth_ratio": Number(None, "reference", skipped=1, reason="no perturbed answers")},
    )
    number = ForgetQuality().summary(table, ratios([0.5]))
    assert number.value is None
    assert number.reason == "the forget set has no truth ratio: no perturbed answers"


def test_forget_quality_counts_rows_without_a_ratio() -> None:
    """A row that is null under either model is left out of both, and counted."""
    number = ForgetQuality().summary(ratios([0.1, None, 0.3, 0.4]), ratios([0.1, 0.2, None, 0.4]))
    assert number.value == pytest.approx(1)
    assert (number.n, number.skipped) == (2, 2)


def test_forget_quality_of_disjoint_nulls_is_null() -> None:
    """Where no row is known under both models there is nothing to test."""
    number = ForgetQuality().summary(ratios([0.1, None]), ratios([None, 0.2]))
    assert number.value is None
    assert "no forget row" in number.reason


def utility(parts: Mapping[str, float | None]) -> Number:
    """Model utility of a table with these figures."""
    rows: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in parts:
        set_, metric = name.split(".")
        rows.setdefault(set_, {})[metric] = {}
    numbers = {name: Number(v, "higher", reason="why") for name, v in parts.items()}
    return ModelUtility().summary(Table(rows, numbers), None)


RETAIN = {"retain.probability": 0.5, "retain.rouge": 1.0, "retain.truth_ratio": 0.25}


def test_model_utility_is_the_harmonic_mean() -> None:
    """3 / (1/.5 + 1/1 + 1/.25) = 3/7; forget and holdout do not count."""
    others = {"forget.probability": 0.0, "holdout.probability": 0.0}
    number = utility({**others, **RETAIN})
    assert number.value == pytest.approx(3 / 7)
    assert number.n == 3


def test_model_utility_prefers_the_normalised_probability() -> None:
    """A set that has both counts the normalised one: 3 / (1/.25 + 1 + 4) = 1/3."""
    assert utility({**RETAIN, "retain.normalized_probability": 0.25}).value == pytest.approx(1 / 3)


def test_a_part_that_is_zero_makes_utility_zero() -> None:
    """As the harmonic mean has it in the limit, without a division by zero."""
    assert utility({**RETAIN, "retain.rouge": 0.0}).value == 0


def test_a_null_part_makes_utility_null() -> None:
    """Utility over fewer parts would not be comparable; the reason names the part."""
    number = utility({**RETAIN, "retain.rouge": None})
    assert number.value is None
    assert number.reason == "retain.rouge has no value: why"


def test_a_part_that_was_not_measured_makes_utility_null() -> None:
    """A set without ROUGE is told apart from one whose ROUGE is 0."""
    number = utility({"retain.probability": 0.5})
    assert number.value is None
    assert "retain.rouge has no value: not measured" in number.reason


def test_utility_needs_a_set() -> None:
    """With the forget set alone there is nothing to be useful for."""
    number = utility({"forget.probability": 0.1})
    assert number.value is None
    assert "no utility set" in number.reason
