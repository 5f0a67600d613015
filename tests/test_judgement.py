"""A run is judged by its evaluations: which of them say what, and what is required."""

from __future__ import annotations

import math

import pytest

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.evaluations import INSIDE, Evaluation
from unlearn_cli.judgement import judgement
from unlearn_cli.spec.tables import RequireTable, VerdictTable

STRESSED = {"of": "tofu", INSIDE: {}}


def evaluation(
    label: str, quality: float, by: str = "tofu", settings: dict[str, object] | None = None
) -> Evaluation:
    table = Table({}, {"forget_quality": Number(quality, "higher")})
    return Evaluation(by, label, 0, table, "m", "d", settings or {})


def test_the_first_evaluator_decides_and_labels_tell_whose_figures_they_are() -> None:
    """Forgotten by the first (p = 0.4, before 1e-9), whatever another evaluator, a checkpoint or
    the order of the labels says."""
    measured = [
        evaluation("retain_reference", 1.0),
        evaluation("checkpoint", 0.001),
        evaluation("unlearned", 0.4),
        evaluation("unlearned", 0.001, by="qa"),
        evaluation("target", 1e-9),
    ]
    assert judgement(measured, VerdictTable(), RequireTable()).name == "forgotten"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (STRESSED, "recoverable"),
        ({"inside": "a word"}, "forgotten"),  # an option of that name is no stress test
        ({}, "forgotten"),
    ],
)
def test_a_stress_test_is_told_by_its_settings(settings: dict[str, object], name: str) -> None:
    """Under one that has an evaluator inside, p = 0.01 brings it back; the figure of a plain second
    evaluator does not."""
    measured = [
        evaluation("target", 1e-9),
        evaluation("retain_reference", 0.9, "quantize", settings),
        evaluation("unlearned", 0.4),
        evaluation("unlearned", 0.01, "quantize", settings),
    ]
    assert judgement(measured, VerdictTable(), RequireTable()).name == name


def test_what_is_required_is_asked_of_the_unlearned_model() -> None:
    """The target's figure would do; the unlearned model's does not, nor does the verdict."""
    required = RequireTable.model_validate(
        {"verdict": ["not forgotten"], "forget_quality": "< 0.1", "qa.x": "> 0"}
    )
    measured = [evaluation("target", 1e-9), evaluation("unlearned", 0.4)]
    assert judgement(measured, VerdictTable(), required).missed == (
        "the verdict is forgotten, required is not forgotten",
        "forget_quality is 0.4, required is < 0.1",
        "qa.x was not measured, required is > 0",
    )


def test_nothing_measured_is_unknown() -> None:
    """And not a failure."""
    assert judgement([], VerdictTable(), RequireTable()).name == "unknown"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_judges_the_figures_that_are_read_back(value: float) -> None:
    """What is not finite is null when it is judged, as it is in the file: the verdict is the same
    today and from the folder."""
    measured = evaluation("unlearned", value).finite()
    read = Evaluation.from_json(measured.to_json())
    both = [
        judgement([evaluation("target", 1e-9), one], VerdictTable(), RequireTable())
        for one in (measured, read)
    ]
    assert both[0] == both[1]
    assert both[0].name == "unknown"
