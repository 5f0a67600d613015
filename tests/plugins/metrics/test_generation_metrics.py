"""Metrics of generated and drawn answers, against values derived by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unlearn_plugins.metrics.fluency import Fluency
from unlearn_plugins.metrics.leak_at_k import LeakAtK, best_of
from unlearn_plugins.metrics.leakage_bound import (
    LeakageBound,
    expectation_bound,
    probability_bound,
)
from unlearn_plugins.metrics.rouge_f1 import RougeF1

from unlearn_cli.api import Row, ScoredRow
from unlearn_cli.errors import ModelError, PluginError

TRUTH = "the cat sat on the mat"
shares = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def said(text: str | None = None, samples: tuple[str, ...] = ()) -> ScoredRow:
    return ScoredRow("forget", Row.qa("1", "Who?", TRUTH), generation=text, samples=samples)


def test_rouge_f1_of_a_part_of_the_answer() -> None:
    """Two of two words, of six in the answer: precision 1, recall 1/3, F1 1/2. Stems are not
    compared unless asked for."""
    assert RougeF1().value(said("cat sat")) == pytest.approx(0.5)
    assert RougeF1().value(said("cats")) == 0
    assert RougeF1(stemmer=True).value(said("cats")) == pytest.approx(2 / 7)
    assert RougeF1().value(said()) is None


@pytest.mark.parametrize(("k", "expected"), [(1, 0.005), (100, 0.5), (200, 1.0)])
def test_one_leak_in_two_hundred(k: int, expected: float) -> None:
    """With one of 200 that leaks, k of them hold it with probability k / 200."""
    samples = (TRUTH, *["nothing"] * 199)
    assert LeakAtK(k=k).value(said(samples=samples)) == pytest.approx(expected)


@given(shares, st.data())
def test_best_of_is_the_mean_over_all_choices(values: list[float], data: st.DataObject) -> None:
    """Against listing every choice of k."""
    k = data.draw(st.integers(1, len(values)))
    every = [max(chosen) for chosen in combinations(values, k)]
    assert best_of(values, k) == pytest.approx(sum(every) / len(every))


def test_leak_at_k_without_enough_draws_has_no_value() -> None:
    """Seven draws say nothing of the best of eight; threshold 0 takes the recall itself."""
    assert LeakAtK(k=8).value(said(samples=(TRUTH,) * 7)) is None
    assert LeakAtK(k=1, threshold=0).value(said(samples=("cat sat on",))) == pytest.approx(0.5)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 20), (19, 20), (20, 20)])
def test_the_probability_bound_is_clopper_and_pearson(hits: int, n: int) -> None:
    """scipy's exact interval, one-sided at 99 %; all hits bound nothing."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n, alternative="less").proportion_ci(0.99, method="exact")
    assert probability_bound(hits, n, 0.01) == pytest.approx(interval.high)


def test_the_expectation_bound_by_hand() -> None:
    """Draws of 0 and 1 with a band of 1/4: min(1, 1/2 + 1/4) all the way from 0 to 1."""
    alpha = 2.718281828459045 ** (-4 / 16)  # sqrt(ln(1 / alpha) / 4) = 1 / 4
    assert expectation_bound([0.0, 1.0], alpha) == pytest.approx(0.75)


@given(shares)
def test_the_expectation_bound_is_one(values: list[float]) -> None:
    """Never below the mean, never above 1."""
    bound = expectation_bound(values, 0.01)
    assert sum(values) / len(values) - 1e-9 <= bound <= 1 + 1e-9


def test_the_three_figures() -> None:
    """Recalls 1 and 0: one of two above the limit; mean 1/2 and deviation 1/2 make an ED of 3/2."""
    row = said(samples=(TRUTH, "nothing"))
    assert LeakageBound().value(row) == pytest.approx(probability_bound(1, 2, 0.01))
    assert LeakageBound("expectation").value(row) == pytest.approx(expectation_bound([0, 1], 0.01))
    assert LeakageBound("ed_score").value(row) == pytest.approx(1.5)
    assert LeakageBound().value(said()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five", 1.0),
        ("a b c a b c", 0.75),  # abc bca cab abc: three different ones of four
        ("the the the the the the", 0.25),
        ("Yes", 1.0),
        ("", 0.0),
    ],
)
def test_fluency_falls_with_repetition(text: str, expected: float) -> None:
    """The share of sequences of three words that are different; silence is 0."""
    assert Fluency().value(said(text)) == pytest.approx(expected)


def test_fluency_by_a_classifier(tmp_path: Path) -> None:
    """A classifier in a folder is asked; a label that it has not, and a folder without a model, are
    one clear error each."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat"]))
    config = BertConfig(
        vocab_size=5,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label={0: "clean", 1: "noise"},
        label2id={"clean": 0, "noise": 1},
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    values = [Fluency(folder, label).value(said("cat")) for label in ("clean", "noise")]
    assert sum(value or 0 for value in values) == pytest.approx(1)
    with pytest.raises(PluginError, match="no label 'good'; it has clean, noise"):
        Fluency(folder, "good").value(said("cat"))
    with pytest.raises(ModelError, match="cannot be loaded"):
        Fluency(str(tmp_path)).value(said("cat"))
