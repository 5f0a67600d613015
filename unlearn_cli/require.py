"""What a spec requires of a result: figures within bounds, and a verdict that is accepted."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence

from unlearn_cli.api.evaluate import Number
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.spec.tables import RequireTable

SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def missed(
    required: RequireTable, evaluations: Sequence[Evaluation], verdict: str | None = None
) -> tuple[str, ...]:
    """What does not hold, a line each; empty where everything does.

    A figure that was not measured, or is null, does not hold: nothing shows that it would.

    Args:
        required: the spec's `[require]`.
        evaluations: of one model; figures without a name of an evaluator are those of the first.
        verdict: where there is one.
    """
    return tuple(_missed(required, evaluations, verdict))


def _missed(
    required: RequireTable, evaluations: Sequence[Evaluation], verdict: str | None
) -> Iterator[str]:
    if required.verdict and verdict is not None and verdict not in required.verdict:
        yield f"the verdict is {verdict}, required is {' or '.join(required.verdict)}"
    figures = _figures(evaluations)
    for name, condition in required.conditions.items():
        sign, bound = _parse(condition)
        number = figures.get(name)
        if number is None:
            yield f"{name} was not measured, required is {sign} {bound:g}"
        elif number.value is None:
            yield f"{name} is null ({number.reason}), required is {sign} {bound:g}"
        elif not SIGNS[sign](number.value, bound):
            yield f"{name} is {number.value:.4g}, required is {sign} {bound:g}"


def _figures(evaluations: Sequence[Evaluation]) -> Mapping[str, Number]:
    """Figures by `evaluator.figure`, those of the first also by `figure`."""
    every = {
        f"{evaluation.evaluator}.{name}": number
        for evaluation in evaluations
        for name, number in evaluation.table.numbers.items()
    }
    return every | dict(evaluations[0].table.numbers if evaluations else {})


def _parse(condition: str) -> tuple[str, float]:
    sign, bound = re.fullmatch(r"\s*([<>]=?)\s*(\S+)\s*", condition).groups()  # type: ignore[union-attr]
    return sign, float(bound)
