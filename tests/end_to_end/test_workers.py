"""`unlearn sweep` in several processes at once: one sweep, of which each makes a part."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Outcome, Workplace, events, finish, steps

pytestmark = pytest.mark.slow
SHORT = ("--set", "train.steps=2")


def made(outcomes: list[Outcome]) -> list[str]:
    """The runs that each process says that it makes, all together."""
    lines = [line for outcome in outcomes for line in outcome.err.splitlines()]
    return sorted(line.rpartition(": ")[2] for line in lines if line.startswith("run"))


def runs(place: Workplace) -> list[str]:
    return sorted(path.parent.name for path in place.folder.glob("runs/tiny-sweep/*/spec.toml"))


def finished(run: Path) -> int:
    return sum(event["event"] == "RunFinished" for event in events(run))


def test_two_processes_share_a_grid(place: Workplace) -> None:
    """Four runs, each made once by one of the two; together they have all of them, and the one that
    ends last compares all."""
    command = ("sweep", "spec.toml", "--grid", "method.beta=1,2,3,4", *SHORT, "--json")
    outcomes = [finish(process) for process in [place.start(*command) for _ in range(2)]]
    assert [outcome.code for outcome in outcomes] == [0, 0], [o.err for o in outcomes]
    assert made(outcomes) == runs(place)
    assert len(runs(place)) == 4
    assert [finished(place.run_folder(f"tiny-sweep/{name}")) for name in runs(place)] == [1] * 4
    compared = [len(json.loads(outcome.out)["groups"]) for outcome in outcomes]
    assert max(compared) == 4


@pytest.mark.parametrize("storage", ["study.log", "sqlite:///study.db"])
def test_two_processes_share_a_study_and_one_is_killed(place: Workplace, storage: str) -> None:
    """Killed in the middle of a run, its point is taken up where it stopped by a process that
    begins later. Four points for all three, each finished once, all in the study."""
    optuna = pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    command: tuple[str, ...] = (
        "sweep",
        "spec.toml",
        "--range",
        "method.beta=1.0:5.0",
        "--optuna",
        "4",
    )
    command += ("--storage", storage, "--set", "train.steps=6", "--set", "checkpoints.every=1")
    first, second = place.start(*command), place.start(*command)
    killed = _in_training(place, first)
    first.send_signal(signal.SIGKILL)
    outcomes = [finish(first), finish(second)]
    assert outcomes[0].code == -signal.SIGKILL
    assert outcomes[1].code == 0, outcomes[1].err
    last = place.unlearn(*command)
    assert last.code == 0, last.err
    assert len(runs(place)) == 4
    folders = [place.run_folder(f"tiny-sweep/{name}") for name in runs(place)]
    assert [finished(run) for run in folders] == [1] * 4
    assert [steps(run) for run in folders] == [list(range(1, 7))] * 4
    assert made([outcomes[1], last]).count(killed) == 1
    study = optuna.load_study(study_name="tiny-sweep", storage=_storage(place, storage))
    states = sorted(trial.state.name for trial in study.trials)
    assert states == ["COMPLETE"] * 4 + ["FAIL"]


def _in_training(place: Workplace, process: Any) -> str:
    """The run that a process is training, once it took a step; what it says on stderr stays."""
    name = ""
    while process.poll() is None:
        name = name or process.stderr.readline().strip().rpartition(": ")[2]
        if name.startswith("beta-") and steps(place.run_folder(f"tiny-sweep/{name}")):
            return name
        name = name if name.startswith("beta-") else ""
        time.sleep(0.002)
    raise AssertionError("it ended before it trained")


def _storage(place: Workplace, storage: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = str(place.folder / storage.removeprefix("sqlite:///"))
    return f"sqlite:///{path}" if "://" in storage else JournalStorage(JournalFileBackend(path))
