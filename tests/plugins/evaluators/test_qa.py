"""The evaluator of own data asks for what its options name."""

from __future__ import annotations

import pytest
from unlearn_plugins.evaluators.qa import QA

from unlearn_cli.api import Bundle, Decoding, Evaluator, Row
from unlearn_cli.errors import DataError

ROW = Row.qa("1", "Who?", "Ann", perturbed=("Bob",))
TEXT = Row("2", "Once upon a time", kind="text")
BUNDLE = Bundle(forget=(ROW, TEXT), retain=(ROW,), holdout=(ROW,), evaluation={"facts": (ROW,)})


def test_every_set_gets_the_metrics_that_are_named() -> None:
    """Forget and holdout the attacks besides."""
    assert isinstance(QA(), Evaluator)
    metrics = QA(row_metrics=("loss", "rouge")).metrics(BUNDLE)
    assert list(metrics) == ["forget", "retain", "holdout", "facts"]
    assert metrics["facts"] == ("loss", "rouge")
    assert metrics["forget"] == ("loss", "rouge", "zlib", "min_k", "min_k_plus_plus")
    assert QA(row_metrics=("loss",), attacks=False).metrics(BUNDLE)["forget"] == ("loss",)
    assert QA(summary_metrics=("forget_quality",)).summaries() == ("forget_quality", "mia")


def test_rows_are_scored_and_answered_as_they_can_be() -> None:
    """False answers where there are some; a text is not answered; draws only if asked for."""
    drawn = QA(sets=("forget",), samples=3, max_new_tokens=5, temperature=0.5).probes(BUNDLE)
    assert [probe.score for probe in drawn] == [("answer", "perturbed"), ("answer",)]
    assert [probe.generate for probe in drawn] == [Decoding(5), None]
    assert [probe.draw for probe in drawn] == [Decoding(5, samples=3, temperature=0.5), None]
    assert QA().probes(BUNDLE)[0].draw is None
    assert QA(generate=False).probes(BUNDLE)[0].generate is None


def test_a_set_without_rows_is_refused() -> None:
    """With the names of those that there are."""
    with pytest.raises(DataError, match="no rows for the set fakts; there is forget, retain"):
        QA(sets=("fakts",)).probes(BUNDLE)
