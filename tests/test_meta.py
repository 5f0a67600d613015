"""How far metrics can be trusted, from stored runs and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.errors import UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import RunStarted
from unlearn_cli.meta import Trust, faithfulness, meta_evaluate, quantization, relearning
from unlearn_cli.runs import RunFolder

SPEC = """name = "{name}"
[method]
name = "npo"
[[evaluate]]
evaluator = "tofu"
[[evaluate]]
evaluator = "relearn"
[[evaluate]]
evaluator = "quantize"
"""


def test_faithfulness_counts_pairs() -> None:
    """Of four pairs three have the knowing model above: 3/4; turned round it is as faithful. What
    is always the same tells nothing: 1/2."""
    assert faithfulness([3, 1], [0, 2]) == 0.75
    assert faithfulness([0, 2], [3, 1]) == 0.75
    assert faithfulness([1, 1], [1, 1]) == 0.5


def test_relearning_compares_the_changes() -> None:
    """Up by .4 where the reference goes up by .2: 1 - .2 / .6; both alike: 1; opposite: 0."""
    assert relearning((0.1, 0.5), (0.1, 0.3)) == pytest.approx(2 / 3)
    assert relearning((0.1, 0.3), (0.5, 0.7)) == pytest.approx(1)
    assert relearning((0.1, 0.3), (0.3, 0.1)) == pytest.approx(0)
    assert relearning((0.1, 0.1), (0.2, 0.2)) is None


def test_quantization_punishes_both_directions() -> None:
    """From .1 to .3, or back: 1 - .2 / .4."""
    assert quantization(0.1, 0.3) == quantization(0.3, 0.1) == pytest.approx(0.5)
    assert quantization(0, 0) is None


@pytest.mark.parametrize(
    ("q", "r", "robustness"),
    [(0.95, 0.68, 0.79), (0.92, 0.59, 0.72), (0.92, 0.43, 0.59), (0.60, 0.70, 0.65)],
)
def test_robustness_is_the_published_mean(q: float, r: float, robustness: float) -> None:
    """Rows of OpenUnlearning's table: the harmonic mean of its R and Q, to its two digits."""
    assert Trust("m", None, r, q).robustness == pytest.approx(robustness, abs=0.01)


@pytest.mark.parametrize(
    ("f", "q", "r", "overall"), [(0.92, 0.95, 0.68, 0.85), (0.82, 0.60, 0.70, 0.72)]
)
def test_overall_is_the_published_mean(f: float, q: float, r: float, overall: float) -> None:
    """The same of its last column: faithfulness and robustness."""
    assert Trust("m", f, r, q).overall == pytest.approx(overall, abs=0.01)
    assert Trust("m", f, None, None).overall is None


def run(folder: Path, name: str, figures: dict[tuple[str, str], float]) -> Path:
    """A finished run: (evaluator, label) -> its figure of the forget set; utility is kept."""
    made = RunFolder.create(folder / name, SPEC.format(name=name))
    made.append_event(RunStarted(name, str(folder), "npo", "cpu", 1))
    for (evaluator, label), value in figures.items():
        numbers = {
            "forget.probability": Number(value, "lower"),
            "forget.fluency": Number(1.0, "higher"),
            "model_utility": Number(0.5, "higher"),
        }
        step = 4 if label == "unlearned" else 0
        model = f"{name}-{label}"
        made.write_evaluation(Evaluation(evaluator, label, step, Table({}, numbers), model, "data"))
    made.update_manifest(status="finished")
    return made.folder


FIGURES = {
    ("tofu", "target"): 0.9,
    ("tofu", "unlearned"): 0.1,
    ("tofu", "retain_reference"): 0.1,
    ("relearn", "unlearned"): 0.5,
    ("relearn", "retain_reference"): 0.3,
    ("quantize", "unlearned"): 0.3,
    ("quantize", "retain_reference"): 0.1,
}


def test_runs_are_pools_of_models(tmp_path: Path) -> None:
    """Two runs: targets know and references do not; the stress tests give 2/3 and 1/2 by the
    formulas above. Fluency is no knowledge, and is left out."""
    found = meta_evaluate([run(tmp_path, name, FIGURES) for name in ("a", "b")])
    assert (found.knowing, found.ignorant, found.stressed) == (2, 2, 2)
    (trust,) = found.metrics
    assert trust.metric == "forget.probability"
    assert trust.faithfulness == 1
    assert trust.relearning == pytest.approx(2 / 3)
    assert trust.quantization == pytest.approx(1 / 2)


def test_runs_without_a_reference_say_nothing(tmp_path: Path) -> None:
    """One error that says what is missing."""
    figures = {key: value for key, value in FIGURES.items() if key[1] != "retain_reference"}
    with pytest.raises(UsageError, match="not both kinds of models"):
        meta_evaluate([run(tmp_path, "a", figures)])
