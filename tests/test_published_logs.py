"""TOFU's own logs of Llama-2-7B, read as a stored retain reference, give the published numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_stored import foreign, ids_of, metrics_of
from unlearn_cli.api import Number
from unlearn_cli.errors import RunError
from unlearn_cli.stored import Foreign

LOGS = Path(__file__).parents[1] / ".." / "shared" / "data" / "tofu_eval_logs"
pytestmark = pytest.mark.skipif(
    not LOGS.is_dir(), reason="TOFU's evaluation logs are not beside the repository"
)
COUNTS = ids_of(forget=300, retain=300, real_authors=100, world_facts=117)


def published(model: str) -> Foreign:
    return foreign(LOGS / f"llama2-7b_{model}.json")


@pytest.mark.parametrize(
    ("model", "aggregation", "utility"),
    [
        ("full", "geometric", 0.6227),
        ("retain90", "geometric", 0.6137),
        ("full", "arithmetic", 0.5859),
        ("retain90", "arithmetic", 0.5752),
    ],
)
def test_published_utility(model: str, aggregation: str, utility: float) -> None:
    """Model utility of TOFU's Llama-2-7B, to the digits published, from the files as they are."""
    metrics = metrics_of(COUNTS, truth_ratio=aggregation)
    number = published(model).table(metrics, COUNTS).numbers["model_utility"]
    assert number.value == pytest.approx(utility, abs=5e-5)
    assert number.n == 9


def test_published_forget_quality() -> None:
    """The fine-tuned model against retain90, 300 questions, distance 119/300."""
    metrics = metrics_of(COUNTS)
    ours, reference = (published(m).table(metrics, COUNTS) for m in ("full", "retain90"))
    number = metrics.summaries["forget_quality"].summary(ours, reference)
    assert isinstance(number, Number)
    assert number.value == pytest.approx(1.834066e-21, rel=1e-6)
    assert (number.n, number.skipped) == (300, 0)


def test_published_rows_are_300() -> None:
    """The logs stop at 300 of 400 forget questions: refused with the option that evaluates so
    many; and those of forget10 do not pass for forget05, which has 200."""
    for n, hint in ((400, "`rows = 300`"), (200, "the same forget set")):
        ids = COUNTS | ids_of(forget=n)
        with pytest.raises(RunError, match=f"has 300 rows of 'forget', the run evaluates {n}") as e:
            published("retain90").table(metrics_of(ids), ids)
        assert hint in e.value.hint
