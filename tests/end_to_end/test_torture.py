"""Killed again and again, at any moment, a run ends as one that was left alone.

`nox -s torture` kills it often; `--kills` says how often, and `--chance` repeats what failed.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import SPEC, Outcome, Workplace, events, finish, weights

pytestmark = pytest.mark.slow

EXTRA = """
[[evaluate]]
evaluator = "qa"
rows = 2
max_new_tokens = 4
batch_size = 64
"""
SETTINGS = ("train.steps=12", "checkpoints.every=3", "evaluate.0.every=6", "method.name=npo")
RUN = ("run", "spec.toml", *(part for setting in SETTINGS for part in ("--set", setting)))
LIFE = 8
"""The most kills of one run."""
RESULTS = ("losses", "learning_rate", "gradient_norm", "tokens", "weights")

KILLER = '''
"""Writes down every change of a file below the current folder, before it is made, and kills this
process at the one that is asked for."""

import os
import re
import signal
import sys

from tests.end_to_end.moments import moment

log = os.open(os.environ["MOMENTS"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
here, number = os.getcwd(), int(os.environ.get("KILL_AT", "0"))
name = os.environ.get("KILL_BEFORE")
seen = 0


def watch(event, arguments):
    global seen
    if found := moment(event, arguments, here):
        seen += 1
        os.write(log, f"{found}\\n".encode())
        if seen == number or (name and re.search(name, found)):
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
'''
ROOT = Path(__file__).parents[2]

TARGETED = {
    "as the run begins": r"rename \S+/\.spec\.toml",
    "before the first line of the log": r"open \S+/events\.jsonl",
    "as the target is stored": r"rename cache/models/\.\w+\.partial",
    "as an evaluation is cached": r"rename cache/evaluations/",
    "as the reference is stored": r"rename cache/references/\w+\.partial",
    "within an evaluation": r"rename \S+/evaluations/step-6/\.tofu\.json",
    "within a checkpoint": r"open runs/\S+/\.step-6\.partial/optimizer\.pt",
    "before a checkpoint has its name": r"rename runs/\S+/\.step-6\.partial",
    "between a checkpoint and the end of the one before": r"rmtree runs/\S+/step-3$",
    "within the end of a checkpoint": r"rmdir \S*step-3$",
    "within the last evaluation": r"rename \S+/evaluations/step-12/\.qa\.json",
    "as the model is stored": r"rename \S+/\.model\.partial",
    "as the report is written": r"rename \S+/\.report\.html",
}

BRIEFLY = (
    "within a checkpoint",
    "between a checkpoint and the end of the one before",
    "within the last evaluation",
)


@dataclass(frozen=True)
class Undisturbed:
    """The run that the others must equal."""

    run: Path
    moments: list[str]
    seconds: float


@dataclass
class Life:
    """One run, from its first process to the one that finishes it."""

    place: Workplace
    killer: Path
    kills: int = 0

    @property
    def run(self) -> Path:
        return self.place.run_folder("tiny")

    @property
    def moments(self) -> list[str]:
        """Every change that the last process made, or was about to make."""
        return (self.place.folder.parent / "moments").read_text().splitlines()

    def go(self, seconds: float | None = None, **orders: str) -> Outcome:
        """Start the run or go on with it; it may be killed, as the orders say or by the clock."""
        more = ["--resume"] if (self.run / "spec.toml").exists() else []
        moments = str(self.place.folder.parent / "moments")
        there = self.place.environment().get("PYTHONPATH", "")
        path = {"PYTHONPATH": os.pathsep.join([str(self.killer), str(ROOT), there])}
        extra = {"MOMENTS": moments} | path | orders
        process = self.place.start(*RUN, *more, extra=extra)
        if seconds is not None:
            until = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            process.kill()
        outcome = finish(process)
        assert outcome.code in (0, -signal.SIGKILL), outcome.err
        self.kills += outcome.code != 0
        return outcome

    def live(self) -> None:
        """Go on until it is finished."""
        outcome = self.go()
        assert outcome.code == 0, outcome.err


Born = Callable[[str], Life]


@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Born:
    """A run that has not begun, with a cache of its own."""

    def born(name: str) -> Life:
        folder = tmp_path_factory.mktemp(name) / "here"
        folder.mkdir()
        (folder / "spec.toml").write_text(SPEC + EXTRA, encoding="utf-8")
        killer = folder.parent / "killer"
        info = killer / "unlearn_killer-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unlearn-killer\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[unlearn]\nkiller = unlearn_killer\n")
        (killer / "unlearn_killer.py").write_text(KILLER, encoding="utf-8")
        return Life(Workplace(folder, folder / "cache"), killer)

    return born


@pytest.fixture(scope="module")
def undisturbed(born: Born) -> Undisturbed:
    life = born("undisturbed")
    started = time.monotonic()
    life.live()
    return Undisturbed(life.run, life.moments, time.monotonic() - started)


def log(run: Path) -> list[Any]:
    """What the log says of steps, evaluations and the end, in its order; each as it should come."""
    steps = [
        (e["stage"], e["step"], *(e[name] for name in RESULTS)) for e in events(run, "StepDone")
    ]
    scored = sorted(
        (e["label"], e["step"], e["evaluator"], e["path"]) for e in events(run, "EvaluationDone")
    )
    ends = [(e["verdict"], e["explanation"], e["samples"]) for e in events(run, "RunFinished")]
    return [steps, scored, ends]


def files(folder: Path, name: str = "*") -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(name)}


def tables(run: Path) -> dict[str, str]:
    """The evaluation files, by their paths, as they are."""
    folder = run / "evaluations"
    return {name: (folder / name).read_text("utf-8") for name in files(folder, "*.json")}


def assert_same(life: Life, undisturbed: Undisturbed) -> None:
    """Same weights, figures, log and files; nothing half-written is left."""
    run, other = life.run, undisturbed.run
    assert weights(run / "model") == weights(other / "model")
    assert tables(run) == tables(other)
    for found, expected in zip(log(run), log(other), strict=True):
        assert found == expected
    saved = [e["step"] for e in events(run, "CheckpointSaved")]
    assert saved == sorted({*saved})
    assert files(run) == files(other)
    left = files(life.place.cache, "*.partial") | files(life.place.cache, "*.checkpoints")
    assert left == set()


def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_was_not(
    undisturbed: Undisturbed, born: Born, request: pytest.FixtureRequest
) -> None:
    """SIGKILL before a change of a file, any of them, or by the clock; also while the target is
    made, and while what was killed is resumed."""
    chance = request.config.getoption("--chance")
    chance = random.randrange(10**6) if chance is None else chance
    dice, wanted, kills = random.Random(chance), request.config.getoption("--kills"), 0
    while kills < wanted:
        life, most = born("life"), min(LIFE, wanted - kills)
        told = [f"--chance {chance}: life after {kills} kills"]
        stride = 2 / (most + 1)  # so that the kills of one life are all over it
        while life.kills < most:
            if dice.random() < 0.3:
                found = life.go(seconds=undisturbed.seconds * (0.3 + dice.random() * stride))
            else:
                at = dice.randint(1, max(1, int(len(undisturbed.moments) * stride)))
                found = life.go(KILL_AT=str(at))
            told.append(f"{found.code} after {len(life.moments)} changes: {life.moments[-1:]}")
            if found.code == 0:
                break
        else:
            life.live()
        print("\n".join(told))
        kills += life.kills
        assert_same(life, undisturbed)
    print(f"{kills} kills")


def test_a_run_that_is_killed_at_each_of_the_worst_moments_ends_as_one_that_was_not(
    undisturbed: Undisturbed, born: Born, request: pytest.FixtureRequest
) -> None:
    """One run, killed at each moment once, in their order; with few kills, at some of them."""
    chosen = [*TARGETED.items()]
    if request.config.getoption("--kills") < len(chosen):
        chosen = [item for item in chosen if item[0] in BRIEFLY]
    life = born("worst")

    def first(item: tuple[str, str]) -> int:
        found = [at for at, told in enumerate(undisturbed.moments) if re.search(item[1], told)]
        assert found, item
        return found[0]

    for when, moment in sorted(chosen, key=first):
        assert life.go(KILL_BEFORE=moment).code == -signal.SIGKILL, when
    life.live()
    assert_same(life, undisturbed)
