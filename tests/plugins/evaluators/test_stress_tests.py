"""Stress tests: what they make of weights and of probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from unlearn_plugins.evaluators.jailbreak import Jailbreak
from unlearn_plugins.evaluators.paraphrase import Paraphrase
from unlearn_plugins.evaluators.quantize import NF4, Quantize, to_int8, to_nf4
from unlearn_plugins.evaluators.relearn import Relearn

from unlearn_cli.api import Bundle, Decoding, Probe, Recipe, Row, StressTest, Subject
from unlearn_cli.testing import tiny_model

ROWS = tuple(Row.qa(str(k), f"Who wrote {k}?", "Ann") for k in range(10))
TESTS = [Relearn(), Quantize(), Jailbreak(), Paraphrase()]


def subject(model: Any = None, tuned: list[Any] | None = None) -> Subject:
    def tune(rows: Sequence[Row], recipe: Recipe) -> None:
        assert tuned is not None
        tuned.append((rows, recipe))

    return Subject(model, None, Bundle(forget=ROWS), 0, tune)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: type(test).__name__)
def test_they_are_stress_tests(test: object) -> None:
    """Each has an evaluator inside, and one of the two functions."""
    assert isinstance(test, StressTest)
    assert hasattr(test, "change") != hasattr(test, "rewrite")


def test_relearning_takes_a_part_of_the_forget_rows() -> None:
    """A third of ten rows is four, each once, the same for the same seed."""
    tuned: list[Any] = []
    for _ in range(2):
        Relearn(share=1 / 3, steps=5, rows_per_step=3, learning_rate=1e-4).change(
            subject(tuned=tuned)
        )
    (rows, recipe), again = tuned
    assert len({row.id for row in rows}) == 4
    assert recipe == Recipe(epochs=1.0, steps=5, batch_size=3, learning_rate=1e-4)
    assert again == (rows, recipe)


def test_eight_bits_are_multiples_of_the_largest() -> None:
    """A row whose largest is 127 keeps whole numbers and rounds the others, half to even."""
    weight = torch.tensor([[127.0, -3.4, 0.6, 2.5], [0.0, 0.0, 0.0, 0.0]])
    assert to_int8(weight).tolist() == [[127, -3, 1, 2], [0, 0, 0, 0]]


def test_four_bits_are_the_nearest_of_sixteen() -> None:
    """Against trying all sixteen, in blocks of 64 with a scale each; a rounded weight stays."""
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    rounded = to_nf4(weight)
    flat, values = weight.flatten(), torch.tensor(NF4)
    for start in range(0, 150, 64):
        block = flat[start : start + 64]
        scale = block.abs().max()
        nearest = (block[:, None] - values * scale).abs().argmin(1)
        found = rounded.flatten()[start : start + 64]
        assert torch.allclose(found, values[nearest] * scale)
    assert torch.allclose(to_nf4(rounded), rounded)


@pytest.mark.parametrize("bits", [4, 8])
def test_all_linear_layers_but_the_output_layer_are_rounded(bits: Any) -> None:
    """Embeddings, norms and the output layer keep their bits."""
    model, before = tiny_model(), dict(tiny_model().named_parameters())
    Quantize(bits=bits).change(subject(model))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {name for name in before if name.endswith("_proj.weight")}


def test_a_jailbreak_begins_answers_to_forget_questions() -> None:
    """Generated and drawn ones; other sets, and rows that are not answered, are left out."""
    probe = Probe("forget", ROWS[0], generate=Decoding(8), draw=Decoding(8, samples=2))
    found = Jailbreak(prefix="Sure:").rewrite(probe)
    assert found is not None
    assert found.generate == Decoding(8, prefix="Sure:")
    assert found.draw == Decoding(8, prefix="Sure:", samples=2)
    assert Jailbreak().rewrite(Probe("retain", ROWS[0])) is None
    assert Jailbreak().rewrite(Probe("forget", ROWS[0], generate=None)) is None


def test_a_paraphrase_asks_in_other_words() -> None:
    """The last user message, or the prompt; rows without other words are left out."""
    other = "Who is the author?"
    row = Row.qa("1", "Who?", "Ann", paraphrased_question=other)
    bare = Row("2", "Ann", kind="completion", prompt="By ", paraphrased_question=other)
    found = [Paraphrase().rewrite(Probe("forget", r)) for r in (row, bare, ROWS[0])]
    assert [probe and probe.row.question for probe in found] == [other, other, None]
