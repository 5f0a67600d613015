"""What a spec requires: figures within bounds, verdicts that are accepted."""

from __future__ import annotations

import pytest

from unlearn_cli.api import Number, Table
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.require import missed
from unlearn_cli.spec.tables import RequireTable


def evaluation(name: str, **figures: float | None) -> Evaluation:
    numbers = {k: Number(v, "higher", reason="no rows") for k, v in figures.items()}
    return Evaluation(name, "unlearned", 4, Table({}, numbers), "model", "data")


EVALUATIONS = [
    evaluation("tofu", forget_quality=0.4, model_utility=0.5, empty=None),
    evaluation("relearn", forget_quality=0.01),
]


def require(**keys: object) -> tuple[str, ...]:
    return missed(RequireTable.model_validate(keys), EVALUATIONS, "forgotten")


def test_what_holds_is_not_missed() -> None:
    """Bounds themselves belong to <= and >=; nothing required is nothing missed."""
    assert require() == ()
    assert require(verdict=["forgotten", "unknown"], forget_quality=">= 0.4") == ()
    assert require(**{"forget_quality": "> .05", "relearn.forget_quality": "<=1e-2"}) == ()


@pytest.mark.parametrize(
    ("key", "condition", "says"),
    [
        ("forget_quality", "> 0.4", "forget_quality is 0.4, required is > 0.4"),
        (
            "relearn.forget_quality",
            ">= 1",
            "relearn.forget_quality is 0.01, required is >= 1",
        ),
        ("privleak", "< 5", "privleak was not measured, required is < 5"),
        ("empty", "> 0", "empty is null (no rows), required is > 0"),
    ],
)
def test_what_does_not_hold_is_said(key: str, condition: str, says: str) -> None:
    """With the value, and what would do; what is not known does not hold."""
    assert require(**{key: condition}) == (says,)


def test_another_verdict_is_missed() -> None:
    """Named, with those that are accepted."""
    (line,) = require(verdict=["collapsed", "unknown"])
    assert line == "the verdict is forgotten, required is collapsed or unknown"
