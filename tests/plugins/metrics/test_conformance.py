"""Every metric keeps the contract: `check_metric` and `check_summary`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.plugins.metrics.faulty import Certain, Misspelt, Undeclared, Worst
from unlearn_cli import catalog
from unlearn_cli.api import RowMetric, SummaryMetric
from unlearn_cli.testing import check_metric, check_summary

OURS = [p.name for p in catalog.plugins("metric") if p.distribution == "unlearn-cli"]
BUILT = {name: catalog.build("metric", name, {}) for name in OURS}
ROW_METRICS = [name for name, metric in BUILT.items() if isinstance(metric, RowMetric)]
SUMMARIES = [name for name, metric in BUILT.items() if isinstance(metric, SummaryMetric)]
SHARE, POSITIVE, ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
RANGES = {
    **dict.fromkeys(("gradient_norm", "loss", "min_k", "perplexity", "zlib"), POSITIVE),
    **dict.fromkeys(("min_k_plus_plus", "privleak"), ANY),
}
"""As their docstrings say; all others are shares."""


def test_a_metric_is_of_one_of_the_two_kinds() -> None:
    """None is left out of the suites."""
    assert sorted([*ROW_METRICS, *SUMMARIES]) == sorted(OURS)


@pytest.mark.parametrize("name", ROW_METRICS)
def test_a_row_metric_keeps_the_contract(name: str) -> None:
    """A value a row from what it declares, none where anything is missing, within its range."""
    check_metric(BUILT[name], within=RANGES.get(name, SHARE))


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_metric_keeps_the_contract(name: str) -> None:
    """A value or a null with its reason; nothing out of nothing."""
    check_summary(BUILT[name], within=RANGES.get(name, SHARE))


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (Certain("zero"), "without answer a row has the value 0.0, not None"),
        (Certain("state"), "is another when it is asked again"),
        (Certain("first"), "the order of the rows counts"),
        (Certain("sum"), "is not in|the same row three times"),
        (Undeclared(), "reads more than `needs` names"),
        (Misspelt(), "needs names answers"),
    ],
)
def test_a_row_metric_that_breaks_a_claim_is_named(metric: Any, says: str) -> None:
    """The suite can fail, and says on which claim; without the fault it does not."""
    with pytest.raises(AssertionError, match=says):
        check_metric(metric, within=SHARE)


def test_the_faultless_one_passes() -> None:
    """So the faults above are what the suite noticed."""
    check_metric(Certain(), within=SHARE)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("zero", "has a value where nothing was measured"),
        ("reason", "null without a reason"),
        ("infinite", "not finite"),
    ],
)
def test_a_summary_that_breaks_a_claim_is_named(fault: str, says: str) -> None:
    """The suite can fail, and says on which claim."""
    check_summary(Worst(), within=POSITIVE)
    with pytest.raises(AssertionError, match=says):
        check_summary(Worst(fault), within=POSITIVE)


def test_a_value_out_of_range_is_named() -> None:
    """The range is what its author says."""
    with pytest.raises(AssertionError, match="is not within"):
        check_summary(Worst(), within=(0.0, 0.1))
