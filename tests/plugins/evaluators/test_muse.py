"""What the MUSE evaluator asks for, and what it makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from unlearn_plugins.evaluators.muse import MUSEEvaluator, first_words

from unlearn_cli.api import AnswerScore, Bundle, Decoding, Evaluator, Row, ScoredRow, Table
from unlearn_cli.tables import Metrics


def completion(id_: str, answer: str) -> Row:
    return Row(id_, answer, kind="completion", prompt="The tram")


def excerpt(id_: str) -> Row:
    return Row(id_, f"Excerpt {id_}", kind="text")


BUNDLE = Bundle(
    forget=(Row("0", "The tram came late.", kind="text"),),
    retain=(Row("0", "The museum opened.", kind="text"),),
    evaluation={
        "holdout_privleak": (excerpt("c"), excerpt("d")),
        "forget_privleak": (excerpt("a"), excerpt("b")),
        "retain_knowmem": (completion("r", "The museum"),),
        "forget_knowmem": (completion("k", "The tram"),),
        "forget_verbmem": (completion("v", " came late again today"), completion("w", " came")),
    },
)


def test_it_is_an_evaluator() -> None:
    """It has everything that the engine asks of an evaluator."""
    assert isinstance(MUSEEvaluator(), Evaluator)


def test_each_set_is_asked_in_the_way_of_the_paper() -> None:
    """Continuations of 128 tokens, answers of 32 that end where another question begins, excerpts
    scored and not continued; the texts that were trained on are not asked."""
    asked = {p.set: (p.score, p.generate) for p in MUSEEvaluator().probes(BUNDLE)}
    answers = Decoding(32, ("\n\n", "\nQuestion", "Question:"))
    assert asked == {
        "forget_verbmem": ((), Decoding(128)),
        "forget_knowmem": ((), answers),
        "retain_knowmem": ((), answers),
        "forget_privleak": (("answer",), None),
        "holdout_privleak": (("answer",), None),
    }


def test_rows_limits_each_set() -> None:
    """The first N of every set, not N in all."""
    assert [probe.row.id for probe in MUSEEvaluator(rows=1).probes(BUNDLE)] == list("vkrac")


def test_sets_without_rows_have_no_metric() -> None:
    """Data that lacks a set is measured on the others."""
    part = {"retain_knowmem": BUNDLE.evaluation["retain_knowmem"]}
    assert MUSEEvaluator().metrics(Bundle(BUNDLE.forget, evaluation=part)) == {
        "retain_knowmem": ("rouge_f1",)
    }


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, " one\n two"), (3, " one\n two three "), (None, " one\n two three ")],
)
def test_the_truth_is_cut_after_words(count: int | None, expected: str) -> None:
    """At the end of a word, white space kept; nothing is cut from a text that is short enough."""
    assert first_words(" one\n two three ", count) == expected


def test_only_the_true_continuation_is_cut() -> None:
    """Two words of it; the answer to a question and the excerpts stay whole."""
    cut = MUSEEvaluator(truth_words=2).probes(BUNDLE)
    assert {probe.row.id: probe.row.answer for probe in cut} == {
        "v": " came late",
        "w": " came",
        "k": "The tram",
        "r": "The museum",
        "a": "Excerpt a",
        "b": "Excerpt b",
        "c": "Excerpt c",
        "d": "Excerpt d",
    }


def scored(evaluator: MUSEEvaluator, losses: dict[str, float]) -> list[ScoredRow]:
    """The probes as a model would answer that says `came late` to all, with these losses."""
    return [
        ScoredRow(probe.set, probe.row, generation="came late")
        if probe.generate
        else ScoredRow(probe.set, probe.row, AnswerScore(*_tokens(losses[probe.row.id])))
        for probe in evaluator.probes(BUNDLE)
    ]


def _tokens(loss: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([-loss]), np.array([False])


def table(losses: dict[str, float], reference: Table | None = None, **options: str) -> Table:
    evaluator = MUSEEvaluator(**options)  # type: ignore[arg-type]
    return Metrics.of(evaluator, BUNDLE).table(scored(evaluator, losses), reference)


LEARNED = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
"""Both excerpts to forget are less surprising than both of the others: an AUC of 1."""
RETRAINED = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}
"""Of four pairs, two have the forget excerpt below: an AUC of 1/2."""
SUSPICIOUS = {"a": 3.0, "b": 4.0, "c": 1.0, "d": 2.0}
"""Of four pairs none: an AUC of 0."""


def test_the_four_figures() -> None:
    """ROUGE-L F1 by hand: `came late` has 2 of the 4 words of the first truth, and the only word of
    the second with one too many, both 2/3; and no word of either answer."""
    numbers = table(LEARNED).numbers
    assert numbers["forget_verbmem.rouge_f1"].value == pytest.approx(2 / 3)
    assert numbers["forget_knowmem.rouge_f1"].value == 0
    assert numbers["retain_knowmem.rouge_f1"].value == 0
    assert numbers["forget_verbmem.rouge_f1"].direction == "lower"
    assert numbers["retain_knowmem.rouge_f1"].direction == "higher"
    assert numbers["forget_privleak.min_k"].value == 1.5


@pytest.mark.parametrize(
    ("losses", "percent"), [(LEARNED, -100), (RETRAINED, 0), (SUSPICIOUS, 100)]
)
def test_leakage_is_measured_against_the_retain_reference(
    losses: dict[str, float], percent: float
) -> None:
    """s = 1 - AUC: 0, 1/2 and 1, against 1/2 of the reference."""
    number = table(losses, table(RETRAINED)).numbers["privleak"]
    assert number.value == pytest.approx(percent)
    assert number.n == 4


@pytest.mark.parametrize(("corpus", "greatest"), [("news", 109.556), ("books", 85.426)])
def test_leakage_against_the_published_constants(corpus: str, greatest: float) -> None:
    """At an AUC of 0 it is 100 (1 / s - 1), s = .4772 (News) or .5393 (Books), whatever reference
    there is; at an AUC of 1 it is -100."""
    found = table(SUSPICIOUS, table(RETRAINED), corpus=corpus).numbers["privleak"].value
    assert found == pytest.approx(greatest, abs=1e-3)
    assert table(LEARNED, corpus=corpus).numbers["privleak"].value == pytest.approx(-100)


def test_without_a_reference_leakage_is_null() -> None:
    """And says which setting gives it one."""
    number = table(LEARNED).numbers["privleak"]
    assert number.value is None
    assert "retain_reference.path" in number.reason
