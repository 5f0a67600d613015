"""The points of a search: asked of Optuna one by one, by any number of workers.

Optuna's storage holds the study: a file or a database. Who works on a point is told by a lock in
the sweep's folder, which all workers share, so that a worker that died is known at once, without
heartbeats, and its points are asked for again. Without a storage the study lasts as long as the
process. Imports optuna late, and no torch.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from unlearn_cli.errors import Interrupted, UsageError
from unlearn_cli.files import lock_file, write_atomically
from unlearn_cli.safe_text import first_line
from unlearn_cli.spec.paths import user_path
from unlearn_cli.workers import LOCKS, alone

ATTEMPTS = 3
"""Workers that may die of a point before it counts as failed."""
ABOUT = "unlearn"
"""The attribute of a study that says what it is a search of."""


class Study:
    """One worker's view of a search."""

    def __init__(
        self,
        folder: Path,
        storage: str | None,
        name: str,
        objectives: int,
        about: Mapping[str, Any],
    ) -> None:
        """Begin a study, or join it.

        Args:
            folder: of the sweep.
            storage: URL of a database or path of a file; None for a study of this process.
            name: of the study in its storage.
            objectives: how many there are, all to be maximised.
            about: what a study that is joined must have been begun with.

        Raises:
            UsageError: the storage cannot be opened, or the study is of something else.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self._states = folder, optuna.trial.TrialState
        if storage is not None:
            _check_locks(folder)
        with alone(folder):
            self._study = optuna.create_study(
                storage=_open(storage),
                study_name=name,
                directions=["maximize"] * objectives,
                load_if_exists=True,
            )
            self._check(name, {"folder of the runs": _identity(folder), **about})

    def _check(self, name: str, about: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(about))
        known = self._study.user_attrs.get(ABOUT)
        if known is None and not self._study.trials:
            self._study.set_user_attr(ABOUT, now)
        elif known != now:
            known = known or {}
            changed = [key for key in sorted({*known, *now}) if known.get(key) != now.get(key)]
            raise UsageError(
                f"the study that is there has another {', '.join(changed)}",
                where=f"--study {name}",
                hint="choose another --study",
            )

    @contextmanager
    def next(self, limit: int) -> Iterator[Any]:
        """The next trial, which no other worker gets; None where all `limit` of them are taken.

        It is to be told within. Where the user stops it, another worker may take it up.
        """
        with ExitStack() as held:
            with alone(self.folder):
                self._revive()
                trial: Any = self._ask() if self._count() < limit else None
                if trial is not None:
                    held.enter_context(self._lock(trial.number))()
            try:
                yield trial
            except Interrupted:
                with alone(self.folder):
                    self._again(trial.number, trial.params, trial.user_attrs.get("attempt", 1))
                raise

    def tell(self, trial: Any, values: list[float] | None) -> None:
        """What became of a trial; None where it failed."""
        state = self._states.FAIL if values is None else self._states.COMPLETE
        self._study.tell(trial, values, state=state)

    def best(self) -> list[tuple[dict[str, Any], tuple[float, ...]]]:
        """Parameters and values of the Pareto front."""
        return [(trial.params, tuple(trial.values)) for trial in self._study.best_trials]

    def running(self) -> list[dict[str, Any]]:
        """Parameters of the trials that other workers have in hand."""
        return [trial.params for trial in self._trials() if trial.state == self._states.RUNNING]

    def _trials(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _ask(self) -> Any:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that parts of its sampler may change
            # Seeded anew each time, so that workers draw otherwise than each other; what others
            # are trying counts as bad, so that no two try the same corner.
            seed = len(self._trials())
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return self._study.ask()

    def _count(self) -> int:
        """Trials that are done or in hand; one that was asked for again counts once."""
        trials = self._trials()
        replaced = {trial.user_attrs.get("instead_of") for trial in trials}
        waiting = self._states.WAITING
        return sum(t.state != waiting and t.number not in replaced for t in trials)

    def _revive(self) -> None:
        """Ask again for the points of workers that died."""
        for trial in [t for t in self._trials() if t.state == self._states.RUNNING]:
            with self._lock(trial.number) as take:
                if take():
                    attempt = trial.user_attrs.get("attempt", 1) + 1
                    self._again(trial.number, trial.params, attempt)

    def _again(self, number: int, parameters: Mapping[str, Any], attempt: int) -> None:
        replaced = {trial.user_attrs.get("instead_of") for trial in self._trials()}
        if number not in replaced and attempt <= ATTEMPTS:
            told = {"instead_of": number, "attempt": attempt}
            self._study.enqueue_trial(dict(parameters), user_attrs=told)
        self._study.tell(number, state=self._states.FAIL)

    def _lock(self, number: int) -> Any:
        return lock_file(self.folder / LOCKS / f"trial-{number}")


def _open(storage: str | None) -> Any:
    """Optuna's storage. UsageError where there is none; it never names a URL, which may hold a
    password."""
    if storage is None:
        return None
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        if "://" in storage:
            return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})  # it is asked rarely
        path = user_path(storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        hint = "give the path of a file, sqlite:///FILE, or the URL of a database"
        what = f"cannot be opened ({first_line(error)})"
        raise UsageError(what, where="--storage", hint=hint) from None


def _check_locks(folder: Path) -> None:
    """Raise UsageError where the file system knows no locks."""
    path = folder / LOCKS / "check"
    with lock_file(path) as one, lock_file(path) as other:
        if one() and other():
            raise UsageError(
                "the file system has no locks, so workers could not see each other",
                where=str(folder),
                hint="set output.folder to one that has, or leave --storage out",
            )


def _identity(folder: Path) -> str:
    """What tells the folder of a sweep from one of the same name on another machine."""
    path = folder / LOCKS / "identity"
    if not path.exists():
        write_atomically(path, uuid4().hex)
    return path.read_text("utf-8")
