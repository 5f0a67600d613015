"""The runs of a sweep, run by any number of workers that share its folder, and resumed.

Issued again, a sweep skips what is finished, resumes what was interrupted and tries again what
failed. Issued several times at once, it is one sweep of as many workers: each takes the next run
that no other has in hand. What a worker has in hand it has locked, in `.locks`; the lock is the
kernel's and ends with the worker, however that dies. Imports no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_cli.errors import FAULTS, Interrupted, RunError, UnlearnError
from unlearn_cli.files import lock_file, write_atomically
from unlearn_cli.runs import RunFolder
from unlearn_cli.sweep import Variant

MANIFEST = "sweep.json"
LOCKS = ".locks"
PATIENCE = 0.5
"""Seconds between two looks at what another worker has in hand."""


@dataclass(frozen=True)
class Failure:
    """A run that stopped, and why."""

    name: str
    error: str


@dataclass
class Outcome:
    """What became of the runs that a worker was given."""

    failures: list[Failure] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """What other workers still have in hand."""


def run_all(
    folder: Path,
    runs: Sequence[Variant],
    run: Callable[[Variant, bool], None],
    *,
    wait: bool = False,
) -> Outcome:
    """Run what is not finished and no other worker has in hand; go on after a failure.

    What another worker let fall, by dying or on request, is taken up; what it failed at meanwhile
    is not tried again.

    Args:
        folder: the sweep's.
        runs: as from `variants`.
        run: runs one; the second argument is whether its folder holds a part of it already.
        wait: until the runs that others have in hand are done, too.

    Raises:
        Interrupted: the user stopped it; nothing further is started.
    """
    _write_manifest(folder, runs)
    to_retry = {variant.name for variant in runs if _status(variant) == "failed"}
    outcome, left = Outcome(), [*runs]
    while left:
        held = [v for v in left if not _done(v, run, v.name in to_retry, outcome.failures)]
        if len(held) == len(left):
            if not wait:
                break
            time.sleep(PATIENCE)
        left = held
    outcome.elsewhere = [variant.name for variant in left]
    return outcome


def _status(variant: Variant) -> Any:
    return RunFolder(variant.folder).manifest.get("status")


def _done(
    variant: Variant, run: Callable[[Variant, bool], None], retry: bool, failures: list[Failure]
) -> bool:
    """Run a variant, if there is need to; False where another worker has it in hand."""
    with lock_file(variant.folder.parent / LOCKS / variant.name) as take:
        if not take():
            return False
        status = _status(variant)
        if status == "failed" and not retry:
            error = RunFolder(variant.folder).manifest.get("error")
            failures.append(Failure(variant.name, str(error)))
        elif status != "finished":
            failures += _attempt(variant, run)
        return True


def _attempt(variant: Variant, run: Callable[[Variant, bool], None]) -> list[Failure]:
    try:
        run(variant, RunFolder(variant.folder).spec.is_file())
    except Interrupted as error:
        hint = "issue the same `unlearn sweep` again to go on"
        raise Interrupted(error.what, where=variant.name, hint=hint, by=error.by) from None
    except UnlearnError as error:
        return [Failure(variant.name, error.line())]
    except FAULTS as error:  # one broken run must not cost the others
        return [Failure(variant.name, repr(error))]
    return []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other worker of the sweep in this folder is."""
    with lock_file(folder / LOCKS / "sweep") as take:
        while not take():
            time.sleep(PATIENCE / 10)
        yield


def finished_runs(folder: Path) -> list[Path]:
    """The finished runs of a sweep, in its order; RunError where its list is damaged."""
    found = [folder / name for name in (_listed(folder) if is_sweep(folder) else ())]
    return [run for run in found if RunFolder(run).manifest.get("status") == "finished"]


def is_sweep(folder: Path) -> bool:
    """Whether the folder is one of a sweep."""
    return (folder / MANIFEST).is_file()


def _write_manifest(folder: Path, runs: Sequence[Variant]) -> None:
    """List the runs, after those that an earlier command put into this sweep."""
    with alone(folder):
        entries = _listed(folder) if is_sweep(folder) else {}
        for variant in runs:
            entries[variant.name] = {"set": variant.point, "seed": variant.spec.seed}
        text = json.dumps({"runs": entries}, ensure_ascii=False, indent=2)
        write_atomically(folder / MANIFEST, text + "\n")


def _listed(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return dict(json.loads(path.read_text("utf-8"))["runs"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"is no list of runs: {error!r}", where=str(path)) from None
