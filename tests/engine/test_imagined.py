"""What a stress test does to a model, counted on one without data."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.api.evaluate import Recipe, Subject
from unlearn_cli.engine import imagined
from unlearn_cli.engine.evaluate import Job
from unlearn_cli.engine.imagined import Changed
from unlearn_cli.engine.speed import Speed
from unlearn_cli.engine.target import plan_briefly
from unlearn_cli.testing import tiny_model

ROWS = tuple(Row.qa(str(k), f"Question {k}?", f"Answer {k}") for k in range(5))
FREE = Speed(operations=float("inf"), bytes=float("inf"), call=0.0)


@dataclass(frozen=True)
class Stress:
    """A stress test that does what it is told."""

    do: Callable[[Subject], Any]
    of: str = "tofu"

    def change(self, subject: Subject) -> None:
        self.do(subject)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Subject], Any]], Changed]:
    """What a change takes of the tiny model; planned fine-tunings are rows and recipe."""

    def planned(session: Any, encoder: Any, rows: Any, recipe: Recipe, *, stage: str) -> Any:
        return stage, tuple(rows), recipe

    monkeypatch.setattr(imagined, plan_briefly.__name__, planned)

    def change(do: Callable[[Subject], Any]) -> Changed:
        bundle, spec = Bundle(ROWS, ()), SimpleNamespace(seed=3)
        session: Any = SimpleNamespace(device=torch.device("cpu"), bundle=bundle, spec=spec)
        plugin, encoder = Stress(do), SimpleNamespace(tokenizer=None)
        job = Job("stress", plugin, plugin, 16)
        return imagined.change(job, session, encoder, tiny_model(), FREE)  # type: ignore[arg-type]

    return change


def refuse(error: Exception) -> None:
    raise error


def size() -> int:
    """Bytes of what `restored` copies of the tiny model."""
    return sum(value.nbytes for value in tiny_model().state_dict().values())


def test_the_copy_that_restores_the_model_is_counted(changed: Any) -> None:
    """A change that makes nothing leaves one copy of the weights beside the model."""
    found = changed(lambda subject: None)
    assert (found.kept, found.cost.memory, found.tunings, found.reason) == (size(), size(), [], "")


def test_what_a_change_makes_is_counted(changed: Any) -> None:
    """Two further copies at once are two more of the same size."""

    def copy(subject: Subject) -> None:
        kept = [[p.detach().clone() for p in subject.model.parameters()] for _ in range(2)]
        assert kept

    weights = sum(p.nbytes for p in tiny_model().parameters())
    assert changed(copy).cost.memory == size() + 2 * weights


def test_what_a_change_fine_tunes_is_noted(changed: Any) -> None:
    """Rows and recipe of each call, and what is beside the model then: first the copy that restores
    it, then a tensor of 4,000 bytes besides."""
    recipe = Recipe(steps=7, batch_size=2)

    def tune(subject: Subject) -> None:
        subject.fine_tune(subject.data.forget[:2], recipe)
        kept = torch.empty(1000)
        subject.fine_tune(subject.data.forget, recipe)
        assert len(kept) == 1000

    found = changed(tune)
    assert found.tunings == [
        (size(), ("stress", ROWS[:2], recipe)),
        (size() + 4000, ("stress", ROWS, recipe)),
    ]


@pytest.mark.parametrize(
    "look",
    [
        lambda subject: float(subject.model.lm_head.weight.sum()),
        lambda subject: subject.model.lm_head.weight.detach().numpy(),
        lambda subject: pickle.dumps(subject.model.lm_head.weight),
        lambda subject: refuse(NotImplementedError()),
        lambda subject: refuse(ValueError("a kernel that checks its input")),
    ],
    ids=["a number", "an array", "a file", "nothing said", "a kernel"],
)
def test_a_change_that_looks_at_values_is_not_foreseen(changed: Any, look: Any) -> None:
    """It is no error: there is a reason, and the copy that restores the model is known."""
    found = changed(look)
    assert found.reason
    assert found.kept == size()
