"""A sweep whose points Optuna chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_cli import search as module
from unlearn_cli.api.evaluate import Number
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.runs import RunFolder
from unlearn_cli.search import Found, search
from unlearn_cli.spec.tables import DataTable, EvaluateTable, MethodTable, OutputTable, Spec
from unlearn_cli.sweep import Failure, Variant, parse_range

pytest.importorskip("optuna", reason="the extra `optuna` is not installed")


class Experiment:
    """Runs that need no model: of x the forget quality is x and the utility 1 - x^2."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.ran, self.broken = folder, list[str](), float("inf")
        monkeypatch.setattr(module, "read_result", self.result)

    def load(self, flags: Sequence[str], seed: int | None) -> Spec:
        x = next(flag.partition("=")[2] for flag in flags if flag.startswith("method.x"))
        return Spec(
            name="tiny",
            seed=seed or 0,
            data=DataTable(),
            method=MethodTable(name="npo", x=float(x)),
            evaluate=(EvaluateTable(evaluator="tofu"),),
            output=OutputTable(folder=str(self.folder)),
        )

    def run(self, variant: Variant, resume: bool) -> None:
        self.ran.append(variant.name)
        if float(variant.point["method.x"]) > self.broken:
            raise RunError("loss is not finite")
        RunFolder.create(variant.folder, variant.toml).update_manifest(status="finished")

    def result(self, folder: Path) -> Any:
        x = float(folder.name.split("_")[0].removeprefix("x-"))
        after = {
            "forget_quality": Number(x, "higher"),
            "kept_utility": Number(1 - x * x, "higher"),
            "forget.rouge": Number(x, "lower"),
            "mia.loss.auc": Number(x, "reference"),
        }
        return SimpleNamespace(after=after)

    def search(
        self, trials: int, objectives: tuple[str, ...] = module.OBJECTIVES, seeds: Any = (0, 1)
    ) -> tuple[Path, list[Found], list[Failure]]:
        ranges = [parse_range("method.x=0.0:1.0")]
        return search(self.load, [], ranges, seeds, None, trials, objectives, self.run)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    return Experiment(tmp_path, monkeypatch)


def test_each_point_runs_with_every_seed(experiment: Experiment) -> None:
    """Six points, two seeds: twelve runs; more of one costs more of the other here, so every point
    is on the front."""
    _, front, failures = experiment.search(6)
    assert len(experiment.ran) == 12
    assert not failures
    found = {(round(v[0], 4), round(v[1], 4)) for v in (f.values for f in front)}
    xs = {float(name.split("_")[0].removeprefix("x-")) for name in experiment.ran}
    assert found == {(round(x, 4), round(1 - x * x, 4)) for x in xs}


def test_a_front_holds_what_nothing_beats(experiment: Experiment) -> None:
    """Where ROUGE should be low and utility falls with x, the smallest x beats all others."""
    _, front, _ = experiment.search(8, ("forget.rouge", "kept_utility"))
    (best,) = front
    assert best.point["method.x"] == min((n.split("_")[0][2:] for n in experiment.ran), key=float)
    assert best.values[0] == -float(best.point["method.x"])


def test_again_it_goes_on_where_it_ended(experiment: Experiment) -> None:
    """Eight trials after five are the eight that it would have made at once."""
    experiment.search(5)
    first = list(experiment.ran)
    experiment.search(8)
    assert len(experiment.ran) == 16
    assert experiment.ran[: len(first)] == first


def test_a_failed_run_does_not_end_the_search(experiment: Experiment) -> None:
    """Its point is not on the front, and the others are."""
    experiment.broken = 0.5
    _, front, failures = experiment.search(8, seeds=(0,))
    assert failures
    assert front
    assert all(float(found.point["method.x"]) <= 0.5 for found in front)


@pytest.mark.parametrize(
    ("name", "says"),
    [("mia.loss.auc", "should equal the retain reference"), ("rogue", "no figure is called rogue")],
)
def test_an_objective_that_is_none(experiment: Experiment, name: str, says: str) -> None:
    """Without a better direction, or unknown: one error that names it."""
    with pytest.raises(UsageError, match=says):
        experiment.search(1, (name, "kept_utility"))


def test_without_optuna_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error, with what installs it."""
    missing: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", missing)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-cli\[optuna\]'"):
        module.check_installed()
