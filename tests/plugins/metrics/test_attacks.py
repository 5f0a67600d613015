"""Likelihood metrics and membership inference, against values derived by hand."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unlearn_plugins.metrics._attack import auc, true_positive_rate
from unlearn_plugins.metrics.gradient_norm import GradientNorm
from unlearn_plugins.metrics.loss import Loss
from unlearn_plugins.metrics.mia import MIA
from unlearn_plugins.metrics.min_k import MinK
from unlearn_plugins.metrics.min_k_plus_plus import MinKPlusPlus
from unlearn_plugins.metrics.perplexity import Perplexity
from unlearn_plugins.metrics.privleak import PrivLeak
from unlearn_plugins.metrics.zlib import Zlib

from unlearn_cli.api import AnswerScore, Row, ScoredRow, Table

NEWS, BOOKS = 1 - 0.4772, 1 - 0.5393
"""AUC of the retrained models of MUSE, which states 1 minus it."""
integers = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def scored(*logp: float, **more: object) -> ScoredRow:
    """A row whose answer tokens have these log-probabilities."""
    answer = AnswerScore(np.array(logp), np.ones(len(logp), bool), **more)  # type: ignore[arg-type]
    return ScoredRow("forget", Row.qa("1", "Who?", "the cat sat on the mat"), answer)


NOTHING = ScoredRow("forget", Row.qa("1", "Who?", "Ann"))


def losses(members: Sequence[float], others: Sequence[float], metric: str = "min_k") -> Table:
    sets = {"forget": members, "holdout": others}
    rows = {s: {metric: {str(k): v for k, v in enumerate(values)}} for s, values in sets.items()}
    return Table(rows, {})


def test_loss_and_perplexity() -> None:
    """Tokens of 1 and 3 nats: 2 nats, perplexity e^2; a set of perplexities e and e^3 has e^2."""
    row = scored(-1.0, -3.0)
    assert Loss().value(row) == 2
    assert Perplexity().value(row) == pytest.approx(math.e**2)
    assert Perplexity().aggregate([math.e, math.e**3], "forget") == pytest.approx(math.e**2)


def test_zlib_divides_by_the_compressed_size() -> None:
    """2 nats over the bytes of the compressed answer."""
    size = len(zlib.compress(b"the cat sat on the mat"))
    assert Zlib().value(scored(-1.0, -3.0)) == pytest.approx(2 / size)


def test_min_k_takes_the_lowest() -> None:
    """Half of 4 tokens: the two of 3 and 4 nats; 40 % of 2 tokens is rounded up to one."""
    assert MinK(k=0.5).value(scored(-1.0, -4.0, -2.0, -3.0)) == 3.5
    assert MinK().value(scored(-1.0, -3.0)) == 3


def test_min_k_plus_plus_standardises() -> None:
    """(-4 - -2) / 1 and (-1 - -3) / 4 are -2 and 1/2: the lower one counts; a position without
    spread does not divide by zero."""
    row = scored(-4.0, -1.0, expected_logp=np.array([-2.0, -3.0]), spread_logp=np.array([1.0, 4.0]))
    assert MinKPlusPlus(k=0.5).value(row) == 2
    certain = scored(0.0, expected_logp=np.zeros(1), spread_logp=np.zeros(1))
    assert MinKPlusPlus().value(certain) == 0
    assert MinKPlusPlus().value(scored(-1.0)) is None


def test_what_is_missing_has_no_value() -> None:
    """No answer, no value: never 0."""
    metrics = (Loss(), Perplexity(), Zlib(), MinK(), MinKPlusPlus(), GradientNorm())
    assert [metric.value(NOTHING) for metric in metrics] == [None] * len(metrics)
    assert GradientNorm().value(scored(-1.0, gradient_norm=0.25)) == 0.25


@given(integers, integers)
def test_auc_counts_pairs(members: list[int], others: list[int]) -> None:
    """Against counting: 1 for each pair with the member below, 1/2 for a tie."""
    pairs = [(m < o) + (m == o) / 2 for m in members for o in others]
    found = auc(np.array(members, float), np.array(others, float))
    assert found == pytest.approx(sum(pairs) / len(pairs))


@given(integers, integers, st.sampled_from([0.0, 0.1, 0.5]))
def test_the_rate_is_the_best_at_so_few_false_positives(
    members: list[int], others: list[int], allowed: float
) -> None:
    """Against trying every threshold: call what is below it a member."""
    best = max(
        np.mean(np.array(members) < t)
        for t in [*others, 99]
        if np.mean(np.array(others) < t) <= allowed
    )
    found = true_positive_rate(np.array(members, float), np.array(others, float), allowed)
    assert found == pytest.approx(best)


def test_identical_sets_cannot_be_told_apart() -> None:
    """AUC 1/2; memorised rows give 1, rows that surprise more than the holdout less than 1/2."""

    def found(members: list[float], others: list[float]) -> float | None:
        return MIA().summary(losses(members, others), None)["min_k.auc"].value

    assert found([1, 2, 3], [1, 2, 3]) == 0.5
    assert found([1, 2], [3, 4]) == 1
    assert found([3, 4], [1, 2]) == 0


def test_the_reference_attack_takes_the_difference() -> None:
    """Losses 1 and 2 where the reference has 3 and 5, a holdout of equal losses: -2 and -3 against
    0 tell both; rows that the reference has not are left out."""
    ours = losses([1.0, 2.0, 9.0], [4.0], "loss")
    theirs = losses([3.0, 5.0], [4.0], "loss")
    found = MIA().summary(ours, theirs)
    assert found["reference.auc"].value == 1
    assert found["reference.auc"].n == 3
    assert "reference.auc" not in MIA().summary(ours, None)


def test_nothing_is_said_of_attacks_that_were_not_measured() -> None:
    """Without a holdout there is no figure, rather than a null for each attack."""
    assert MIA().summary(losses([1.0], []), None) == {}


def spread(count: int, below: int) -> Table:
    """Of `count` pairs of a forget and a holdout row, `below` with the forget row lower."""
    return losses([0.0] * below + [2.0] * (count - below), [1.0])


def test_privleak_is_relative_to_the_reference() -> None:
    """All members visible: -100; as the reference: 0; none visible: 100 (1 / s_ref - 1)."""
    reference = spread(10, 5)
    assert PrivLeak().summary(spread(10, 10), reference).value == pytest.approx(-100)
    assert PrivLeak().summary(spread(10, 5), reference).value == pytest.approx(0)
    assert PrivLeak().summary(spread(10, 0), reference).value == pytest.approx(100)


@pytest.mark.parametrize(("reference", "most"), [(NEWS, 109.556), (BOOKS, 85.426)])
def test_the_largest_privleak_of_muse(reference: float, most: float) -> None:
    """MUSE's constants .4772 and .5393: at AUC 0, 100 (1 / s_ref - 1)."""
    found = PrivLeak(reference_auc=reference).summary(spread(10, 0), None)
    assert found.value == pytest.approx(most, abs=1e-3)


def test_privleak_without_a_reference_is_null_and_says_why() -> None:
    """It names the option that brings one."""
    found = PrivLeak().summary(spread(10, 0), None)
    assert found.value is None
    assert "retain_reference.path" in found.reason
    missing = PrivLeak().summary(losses([1.0], []), spread(4, 2))
    assert missing.reason == "min_k was not measured on forget and holdout"
