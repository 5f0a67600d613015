"""Alternate answers as a stream of their own."""

from __future__ import annotations

from collections.abc import Sequence

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.objective import Alternates
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.testing import made_up_rows

CHOICES = [("a", "b", "c"), ("d",), ("e", "f"), ("g", "h", "i", "j"), ("k",)]


def test_what_the_plan_draws_is_encoded_once_each_and_found_again() -> None:
    """Rows with one to four answers, several epochs: the answer of a step's row is number
    `draw % count`, and no pair stands twice in the stream."""
    plan = make_plan(forget=5, retain=0, batch_size=2, seed=1, epochs=4)
    asked: list[tuple[int, str]] = []

    def encode(pairs: Sequence[tuple[int, str]]) -> list[Encoded]:
        asked.extend(pairs)
        return made_up_rows(len(pairs))

    alternates = Alternates(plan, CHOICES, encode)
    expected = [
        [(row, CHOICES[row][draw % len(CHOICES[row])]) for row, draw in zip(*pair, strict=True)]
        for pair in ((step.forget.tolist(), step.draw.tolist()) for step in plan.steps)
    ]
    assert [[asked[k] for k in alternates.rows(step)] for step in plan.steps] == expected
    assert asked == sorted({pair for step in expected for pair in step})
    assert len(alternates.items) == len(asked)
