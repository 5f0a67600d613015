"""A sweep whose points Optuna chooses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_cli import search as module
from unlearn_cli.api.evaluate import Number
from unlearn_cli.errors import Interrupted, RunError, UsageError
from unlearn_cli.runs import RunFolder
from unlearn_cli.search import Search, search
from unlearn_cli.spec.tables import DataTable, EvaluateTable, MethodTable, OutputTable, Spec
from unlearn_cli.sweep import Variant, parse_range

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
        self,
        trials: int,
        objectives: tuple[str, ...] = module.OBJECTIVES,
        seeds: Any = (0, 1),
        **options: Any,
    ) -> Search:
        ranges = [parse_range("method.x=0.0:1.0")]
        run = options.pop("run", self.run)
        return search(self.load, [], ranges, seeds, None, trials, objectives, run, **options)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    return Experiment(tmp_path, monkeypatch)


def test_each_point_runs_with_every_seed(experiment: Experiment) -> None:
    """Six points, two seeds: twelve runs; more of one costs more of the other here, so every point
    is on the front."""
    outcome = experiment.search(6)
    assert len(experiment.ran) == 12
    assert not outcome.failures
    found = {(round(v[0], 4), round(v[1], 4)) for v in (f.values for f in outcome.front)}
    xs = {float(name.split("_")[0].removeprefix("x-")) for name in experiment.ran}
    assert found == {(round(x, 4), round(1 - x * x, 4)) for x in xs}


def test_a_front_holds_what_nothing_beats(experiment: Experiment) -> None:
    """Where ROUGE should be low and utility falls with x, the smallest x beats all others."""
    (best,) = experiment.search(8, ("forget.rouge", "kept_utility")).front
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
    outcome = experiment.search(8, seeds=(0,))
    assert outcome.failures
    assert outcome.front
    assert all(float(found.point["method.x"]) <= 0.5 for found in outcome.front)


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


@pytest.fixture(params=["study.log", "sqlite:///{}/study.db"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file of Optuna's, and a database."""
    name = str(request.param)
    return name.format(tmp_path) if "://" in name else str(tmp_path / name)


def alone(experiment: Experiment, trials: int, storage: str, **options: Any) -> Search:
    return experiment.search(trials, seeds=(0,), storage=storage, **options)


def test_two_workers_share_a_study(experiment: Experiment, storage: str) -> None:
    """While one is in its first run the other makes the rest: five points for both together, none
    twice; it says what the first is at. At the end both know the same front."""
    others: list[Search] = []

    def run(variant: Variant, resume: bool) -> None:
        if not others:
            others.append(alone(experiment, 5, storage))
        experiment.run(variant, resume)

    outcome = alone(experiment, 5, storage, run=run)
    assert len(experiment.ran) == len(set(experiment.ran)) == 5
    assert len(others[0].elsewhere) == 1
    assert others[0].elsewhere[0].replace("method.x=", "x-") == experiment.ran[-1].split("_")[0]
    assert not outcome.elsewhere
    assert len(others[0].front) == 4
    assert len(outcome.front) == 5
    assert alone(experiment, 5, storage) == outcome
    assert len(experiment.ran) == 5


class Killed(BaseException):
    """What no worker survives."""


def test_the_point_of_a_worker_that_died_is_run_again(experiment: Experiment, storage: str) -> None:
    """By whoever asks next, first of all, resumed; it counts once."""
    tried: list[str] = []

    def run(variant: Variant, resume: bool) -> None:
        tried.append(variant.name)
        if len(tried) == 2:
            raise Killed  # as a kill: nothing that follows is done

        experiment.run(variant, resume)

    with pytest.raises(Killed):
        alone(experiment, 4, storage, run=run)
    outcome = alone(experiment, 4, storage, run=run)
    assert tried[1] == tried[2]
    assert len(tried) == 5
    assert len(set(experiment.ran)) == len(outcome.front) == 4


def test_a_point_that_kills_is_given_up(experiment: Experiment, storage: str) -> None:
    """Three workers died of it: it counts as failed, and the search goes on without it."""
    deadly: list[str] = []

    def run(variant: Variant, resume: bool) -> None:
        if not experiment.ran and len(deadly) < 3:
            deadly.append(variant.name)
            raise Killed
        experiment.run(variant, resume)

    for _ in range(3):
        with pytest.raises(Killed):
            alone(experiment, 3, storage, run=run)
    outcome = alone(experiment, 3, storage, run=run)
    assert len(set(deadly)) == 1
    assert deadly[0] not in experiment.ran
    assert len(experiment.ran) == len(outcome.front) == 2


def test_an_interrupted_point_is_never_given_up(experiment: Experiment, storage: str) -> None:
    """Stopped on request, however often (a queue that preempts), it is still run."""
    stopped: list[str] = []

    def run(variant: Variant, resume: bool) -> None:
        if len(stopped) < 5:
            stopped.append(variant.name)
            raise Interrupted("after step 3")
        experiment.run(variant, resume)

    for _ in range(5):
        with pytest.raises(Interrupted):
            alone(experiment, 2, storage, run=run)
    alone(experiment, 2, storage, run=run)
    assert len(set(stopped)) == 1
    assert stopped[0] == experiment.ran[0]
    assert len(experiment.ran) == 2


def test_more_points_go_on_from_those_that_there_are(experiment: Experiment, storage: str) -> None:
    """Three, then five: two are added, though the first three runs are not read again."""
    alone(experiment, 3, storage)
    alone(experiment, 5, storage)
    assert len(set(experiment.ran)) == len(experiment.ran) == 5


def test_a_study_of_something_else_is_refused(experiment: Experiment, storage: str) -> None:
    """Other objectives or seeds, another folder of the runs, a study of another program: named."""
    alone(experiment, 1, storage)
    with pytest.raises(UsageError, match="has another --objectives"):
        alone(experiment, 1, storage, objectives=("forget_quality", "forget.rouge"))
    with pytest.raises(UsageError, match="has another --seeds"):
        experiment.search(1, seeds=(1,), storage=storage)
    shutil.rmtree(experiment.folder / "tiny-sweep")
    with pytest.raises(UsageError, match="has another folder of the runs"):
        alone(experiment, 1, storage)
    alone(experiment, 1, storage, study="another")


@pytest.mark.parametrize("where", ["nosuch://me:secret@host/db", "sqlite:////no/such/folder/x.db"])
def test_a_storage_that_cannot_be_opened(experiment: Experiment, where: str) -> None:
    """One line, which does not repeat a password."""
    with pytest.raises(UsageError, match="--storage: cannot be opened") as caught:
        alone(experiment, 1, where)
    assert "secret" not in caught.value.line()


def test_a_file_system_without_locks_is_refused(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There, every worker would believe that the others are dead."""
    monkeypatch.setattr("unlearn_cli.files._flock", lambda descriptor: True)
    with pytest.raises(UsageError, match="the file system has no locks"):
        alone(experiment, 1, str(tmp_path / "study.log"))
