"""Row metrics, against values derived by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from unlearn_plugins.metrics.exact_memorization import ExactMemorization
from unlearn_plugins.metrics.extraction_strength import ExtractionStrength
from unlearn_plugins.metrics.normalized_probability import NormalizedProbability
from unlearn_plugins.metrics.probability import Probability
from unlearn_plugins.metrics.rouge import Rouge
from unlearn_plugins.metrics.truth_ratio import TruthRatio

from unlearn_cli.api import AnswerScore, Row, ScoredRow

LN2 = math.log(2)


def score(*logp: float, correct: Sequence[bool] | None = None) -> AnswerScore:
    return AnswerScore(np.array(logp), np.array(correct or [True] * len(logp)))


def scored(
    *,
    answer: AnswerScore | None = None,
    paraphrase: AnswerScore | None = None,
    perturbed: tuple[AnswerScore, ...] = (),
    generation: str | None = None,
    answers: tuple[str, ...] = ("the cat sat on the mat",),
) -> ScoredRow:
    row = Row.qa("1", "Who?", answers[0], answers=answers if len(answers) > 1 else ())
    return ScoredRow("forget", row, answer, paraphrase, perturbed, generation)


def test_probability_is_normalised_by_length() -> None:
    """Tokens of probability 1/2 and 1/8 give the geometric mean, 1/4."""
    assert Probability().value(scored(answer=score(-LN2, -3 * LN2))) == pytest.approx(0.25)


def test_normalized_probability_is_the_share_of_the_true_answer() -> None:
    """1/2 against 1/4 and 1/4 is half of all."""
    row = scored(answer=score(-LN2), perturbed=(score(-2 * LN2), score(-2 * LN2)))
    assert NormalizedProbability().value(row) == pytest.approx(0.5)


def test_normalized_probability_is_defined_where_all_is_impossible() -> None:
    """0 / (0 + 0 + 1e-10) is 0, not a division by zero."""
    row = scored(answer=score(-1e4), perturbed=(score(-1e4),))
    assert NormalizedProbability().value(row) == 0


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("geometric", 0.5), ("arithmetic", 0.625)],  # wrong: 1/2 and 1/8; true: 1/2
)
def test_truth_ratio_averages_false_answers_as_asked(aggregation: str, expected: float) -> None:
    """sqrt(1/2 * 1/8) / (1/2) = 1/2, and (1/2 + 1/8) / 2 / (1/2) = 5/8."""
    row = scored(answer=score(-LN2), perturbed=(score(-LN2), score(-3 * LN2)))
    metric = TruthRatio(aggregation=aggregation)  # type: ignore[arg-type]  # parametrised
    assert metric.value(row) == pytest.approx(expected)


def test_truth_ratio_compares_with_the_paraphrase() -> None:
    """Where there is a paraphrase (1/8) the answer (1) does not enter: (1/4) / (1/8) = 2."""
    row = scored(
        answer=score(0.0), paraphrase=score(-3 * LN2), perturbed=(score(-2 * LN2, -2 * LN2),)
    )
    assert TruthRatio().value(row) == pytest.approx(2)


@pytest.mark.parametrize("difference", [-5000.0, 5000.0])
@pytest.mark.parametrize("aggregation", ["geometric", "arithmetic"])
def test_truth_ratio_stays_finite_at_any_distance(difference: float, aggregation: str) -> None:
    """Answers thousands of nats apart, as after gradient ascent, give R and 1/R in float range."""
    row = scored(answer=score(-6000.0), perturbed=(score(-6000.0 + difference),))
    value = TruthRatio(aggregation=aggregation).value(row)  # type: ignore[arg-type]
    assert value is not None
    assert 0 < value < math.inf
    assert 0 <= TruthRatio().aggregate([value], "forget") < 1e-250


def test_truth_ratio_of_nothing_against_nothing_is_not_a_number() -> None:
    """0 / 0 is nan, which the engine turns into null."""
    row = scored(answer=score(-math.inf), perturbed=(score(-math.inf),))
    value = TruthRatio().value(row)
    assert value is not None
    assert math.isnan(value)


def test_truth_ratio_is_summed_up_by_set() -> None:
    """For R = 1/2, 4: forget (1/2 + 1/4) / 2 = .375; elsewhere (1/2 + 0) / 2 = .25."""
    assert TruthRatio().aggregate([0.5, 4.0], "forget") == 0.375
    assert TruthRatio().aggregate([0.5, 4.0], "retain") == 0.25


@pytest.mark.parametrize(
    ("correct", "strength", "memorised"),
    [
        ([False] * 4, 0, 0),
        ([True] * 4, 1, 1),
        ([False, False, False, True], 0.25, 0.25),
        ([True, True, True, False], 0, 0.75),  # nothing up to the end is completed
        ([True, False, True, True], 0.5, 0.75),
    ],
)
def test_memorisation_counts_tokens(correct: list[bool], strength: float, memorised: float) -> None:
    """Extraction strength is the share of the unbroken right end, exact memorisation of all."""
    row = scored(answer=score(*[-1.0] * 4, correct=correct))
    assert ExtractionStrength().value(row) == strength
    assert ExactMemorization().value(row) == memorised


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ("The cat sat on the mat.", 1),
        ("the cat is there", 1 / 3),  # "the cat" of six words
        ("cats sat mats", 0.5),  # stems: cat, sat, mat
        ("", 0),
    ],
)
def test_rouge_is_recall_of_stems(generation: str, expected: float) -> None:
    """Longest common subsequence over the six words of the answer."""
    assert Rouge().value(scored(generation=generation)) == pytest.approx(expected)


def test_rouge_takes_the_best_accepted_answer() -> None:
    """ "Rome" answers a row that accepts Paris or Rome."""
    assert Rouge().value(scored(generation="Rome", answers=("Paris", "Rome"))) == 1


def test_rouge_has_no_value_where_it_cannot_read() -> None:
    """An answer without a-z and 0-9 is null, not 0; of several answers, readable ones count."""
    assert Rouge().value(scored(generation="東京", answers=("東京",))) is None
    assert Rouge().value(scored(generation="tokyo", answers=("東京", "Tokyo"))) == 1


@pytest.mark.parametrize(
    "metric",
    [
        Probability(),
        NormalizedProbability(),
        Rouge(),
        TruthRatio(),
        ExtractionStrength(),
        ExactMemorization(),
    ],
)
def test_what_is_missing_is_null(
    metric: Probability
    | NormalizedProbability
    | Rouge
    | TruthRatio
    | ExtractionStrength
    | ExactMemorization,
) -> None:
    """No metric makes a number of a row that has nothing."""
    assert metric.value(scored()) is None


@pytest.mark.parametrize("metric", [NormalizedProbability(), TruthRatio()])
def test_false_answers_are_needed(metric: NormalizedProbability | TruthRatio) -> None:
    """A row without false answers has no value, rather than one that looks perfect."""
    assert metric.value(scored(answer=score(-1.0))) is None


@pytest.mark.parametrize(
    "metric",
    [Probability(), NormalizedProbability(), Rouge(), ExtractionStrength(), ExactMemorization()],
)
def test_a_set_is_the_mean_of_its_rows(
    metric: Probability | NormalizedProbability | Rouge | ExtractionStrength | ExactMemorization,
) -> None:
    """Each row weighs the same, on every set."""
    assert metric.aggregate([0.0, 0.25, 0.5], "forget") == 0.25
    assert metric.aggregate([0.0, 0.25, 0.5], "retain") == 0.25
