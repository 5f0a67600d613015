"""The run folder: what a run leaves on disk, and how it is read back.

    spec.toml                             the resolved spec
    manifest.json                         versions, hashes, status
    events.jsonl                          one event a line
    evaluations/step-N/EVALUATOR.json     every number of one evaluation, and a value for every row
    evaluations/retain_reference/EVALUATOR.json
    checkpoints/ · reference/ · model/ · report.html

Whole files are written beside their name and renamed, so that a reader sees the old file or the
new one and never half of one. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import EvaluationDone, Event, RunFinished
from unlearn_cli.files import (
    is_name,
    lock_file,
    now,
    parse_json,
    plain,
    read_text,
    read_toml,
    sha256,
    write_atomically,
    writing,
)
from unlearn_cli.safe_text import redact, without_own
from unlearn_cli.shapes import defaults, misfit

LOCK = ".lock"
RESULTS = ("model", "evaluations")
"""Folders whose files are the result of a run."""
ONCE = {
    "StepDone": ("stage", "step"),
    "EvaluationDone": ("evaluator", "label", "step"),
    "CheckpointSaved": ("step",),
}
"""Events that a log has once, and what tells one from another."""


@dataclass(frozen=True)
class Judged:
    """The verdict, in the manifest."""

    name: str
    explanation: str
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What the manifest may hold, as it is read; keys of other versions besides."""

    created: str = ""
    finished: str = ""
    status: str = ""
    error: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    retain_reference: str = ""
    unlearned: str = ""
    verdict: Judged = Judged("unknown", "")
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Line:
    event: str


@dataclass(frozen=True)
class _Evaluated:
    """`EvaluationDone` without its table."""

    evaluator: str
    label: str
    step: int
    path: str = ""


LOGGED = {kind.__name__: kind for kind in Event.__subclasses__()} | {"EvaluationDone": _Evaluated}
"""Name of an event -> what its line in the log holds."""


class RunFolder:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = folder / "spec.toml"
        self.model = folder / "model"
        self.checkpoints = folder / "checkpoints"
        self.reference = folder / "reference"
        self.report = folder / "report.html"
        self._manifest = folder / "manifest.json"
        self._events = folder / "events.jsonl"
        self._evaluations = folder / "evaluations"

    @classmethod
    def create(cls, folder: Path, spec_toml: str) -> RunFolder:
        """Make a new run in `folder`, which must be missing or empty, or hold a run that failed
        before it had anything to lose.

        Raises:
            UsageError: the folder holds a run, or anything else; nothing is overwritten.
            RunError: it cannot be written.
        """
        run = cls(folder)
        run._refuse_what_is_there()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with run.lock():  # of two processes that start at once, one is refused
            run._refuse_what_is_there()
            if run._left_nothing():
                _delete([path for path in folder.iterdir() if path.name != LOCK])
            write_atomically(run.spec, redact(spec_toml))
            run.update_manifest(created=now())
        return run

    @classmethod
    def open(cls, folder: Path) -> RunFolder:
        """The run that is in `folder`; UsageError where there is none."""
        run = cls(folder)
        if not run.spec.is_file():
            hint = "give the folder that `unlearn run` wrote, e.g. runs/NAME"
            raise UsageError("holds no run", where=str(folder), hint=hint)
        return run

    def _left_nothing(self) -> bool:
        results = (self.checkpoints, self.reference, self.model, self._evaluations)
        failed = self.spec.is_file() and self.manifest.get("status") == "failed"
        return failed and not any(path.exists() for path in results)

    def _refuse_what_is_there(self) -> None:
        if self._left_nothing():
            return
        if self.spec.exists():
            hint = "use --resume or another name"
            raise UsageError("already holds a run", where=str(self.folder), hint=hint)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError("is a file, not a folder", where=str(self.folder))
        # A run that was killed as it began leaves a lock, perhaps half a spec: both are hidden.
        if self.folder.is_dir() and any(p.name[0] != "." for p in self.folder.iterdir()):
            hint = "choose another name or output.folder"
            raise UsageError("is not empty", where=str(self.folder), hint=hint)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run.

        Raises:
            UsageError: another process is; or the folder, whoever filled it, has a link in it,
                through which files elsewhere would be written, cut or deleted.
        """
        lock = self.folder / LOCK
        _refuse_link(lock)
        with lock_file(lock) as take:
            if not take():
                hint = "wait for it to end, or choose another name"
                where = str(self.folder)
                raise UsageError("another process is writing to this run", where=where, hint=hint)
            for path in self.folder.rglob("*"):
                _refuse_link(path)
            yield

    def drop_leftovers(self) -> None:
        """Delete what processes that were killed left half-written; only under the lock."""
        _delete([*self.folder.rglob(".*.tmp"), *self.folder.rglob(".*.partial")])

    @property
    def manifest(self) -> dict[str, Any]:
        """What `update_manifest` has been told so far."""
        if not self._manifest.exists():
            return {}
        parsed: dict[str, Any] = parse_json(read_text(self._manifest), str(self._manifest))
        if wrong := misfit(parsed, Manifest):
            raise RunError(f"is no manifest: {wrong}", where=str(self._manifest))
        return parsed

    def update_manifest(self, **values: Any) -> None:
        """Set the given keys, keep the others; atomic."""
        whole = plain(self.manifest | values)
        text = json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=2)
        write_atomically(self._manifest, redact(text) + "\n")

    def append_event(self, event: Event) -> None:
        """Add one line to the log. Tables of numbers stand in their own files and are left out."""
        hide = without_own if isinstance(event, RunFinished) else redact  # it has answers
        entry = {"event": type(event).__name__, "time": now()} | plain(event)
        if isinstance(event, EvaluationDone):
            del entry["table"]
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self._events), self._events.open("ab+") as file:
            _drop_cut_line(file.fileno())
            file.write(hide(line).encode("utf-8", "replace"))

    def events(self) -> list[dict[str, Any]]:
        """The log, oldest first; a last line that was cut by a kill is left out.

        Raises:
            RunError: any other line is damaged, naming it.
        """
        if not self._events.exists():
            return []
        lines = read_text(self._events).split("\n")[:-1]  # what follows the last newline is cut
        return [_entry(line, f"{self._events}:{n}") for n, line in enumerate(lines, 1)]

    def truncate_events(self, step: int, *, evaluated: bool = True) -> None:
        """Forget what the log says of training after `step`; it is about to happen again, as is the
        evaluation after `step` where that was not `evaluated` to the end.

        Of what a kill made happen twice before it, the later stays.
        """
        told = step if evaluated else step - 1
        events = self.events()
        kept = _each_once(entry for entry in events if not _is_after(entry, step, told))
        lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in kept]
        write_atomically(self._events, "".join(lines))

    def results(self) -> list[Path]:
        """The files that a finished run stands for: spec, model, evaluations; sorted by name."""
        folders = [self.folder / name for name in RESULTS]
        inside = (path for folder in folders for path in (folder, *folder.rglob("*")))
        found = [self.spec, *(path for path in inside if path.is_file() or path.is_symlink())]
        return sorted(found, key=lambda path: path.relative_to(self.folder).as_posix())

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each of the `results`, by its path in the folder, with forward slashes.

        Raises:
            RunError: a file cannot be read, or is a link, which may lead out of the folder.
        """
        return {self.name_of(path): hash_file(path) for path in self.results()}

    def check_results(self) -> None:
        """Raise RunError where files are gone that the run had when it ended."""
        names = [
            name for name in self.manifest.get("files", {}) if not (self.folder / name).is_file()
        ]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RunError(
                f"the run is finished, but {names[0]}{more} of its results are gone",
                where=str(self.folder),
                hint="put them back, or run the spec under another name",
            )

    def name_of(self, path: Path) -> str:
        """The path of a file relative to the folder, with forward slashes."""
        return path.relative_to(self.folder).as_posix()

    def write_evaluation(self, evaluation: Evaluation) -> str:
        """Store an evaluation; its path relative to the run folder, with forward slashes."""
        path = self.place(evaluation)
        write_atomically(path, evaluation.to_json())
        return self.name_of(path)

    def place(self, evaluation: Evaluation) -> Path:
        """The file of an evaluation; RunError where its names are none of files."""
        folder, name = _place(evaluation), evaluation.evaluator
        if not (is_name(folder) and is_name(name)):
            what = f"an evaluation of {name!r} for {evaluation.label!r} has no place in it"
            raise RunError(what, where=str(self.folder))
        return self._evaluations / folder / f"{name}.json"

    def evaluations(self) -> list[Evaluation]:
        """All stored evaluations, by step; those of the retain reference last. Of one step, in the
        order of the spec's `[[evaluate]]`."""
        order = self._evaluators()
        found = [Evaluation.read(path) for path in self._evaluations.glob("*/*.json")]

        def place(e: Evaluation) -> tuple[Any, ...]:
            known = order.index(e.evaluator) if e.evaluator in order else len(order)
            return e.label == "retain_reference", e.step, e.label, known, e.evaluator

        return sorted(found, key=place)

    def _evaluators(self) -> list[str]:
        try:
            return [table["evaluator"] for table in read_toml(self.spec).get("evaluate", ())]
        except (RunError, KeyError, TypeError):  # no spec: the order is of no account
            return []


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        hint = "put there what it leads to; only the folder of a run as a whole may be a link"
        raise UsageError("is a link", where=str(path), hint=hint)


def _entry(line: str, where: str) -> dict[str, Any]:
    """One line of the log, what it leaves out filled in; RunError where it is none."""
    entry: dict[str, Any] = parse_json(line, where)
    wrong = misfit(entry, _Line) or misfit(entry, LOGGED.get(entry["event"], _Line))
    if wrong:
        raise RunError(f"is no event: {wrong}", where=where)
    return defaults(LOGGED.get(entry["event"], _Line)) | entry


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file; RunError where it cannot be read, or is a link."""
    if path.is_symlink():
        raise RunError("is a link, not a file", where=str(path), hint="put the file itself there")
    try:
        return sha256(path)
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _place(evaluation: Evaluation) -> str:
    """Folder of an evaluation; only the target may claim step 0 for itself."""
    if evaluation.label == "retain_reference":
        return evaluation.label
    if evaluation.step == 0 and evaluation.label != "target":
        return evaluation.label
    return f"step-{evaluation.step}"


def _is_after(entry: Mapping[str, Any], step: int, told: int) -> bool:
    """Is `entry` about training after `step`? Only training's events count in its steps. The last
    step whose checkpoint is evaluated and `told` of may be an earlier one."""
    if entry["event"] == "StepDone":
        return bool(entry["stage"] == "train" and entry["step"] > step)
    if entry["event"] == "StageProgress":
        return bool(entry["stage"] == "train" and entry["done"] > step)
    if entry["event"] == "EvaluationDone":
        on_the_way = entry["label"] == "checkpoint" and entry["step"] <= told
        return not (on_the_way or entry["label"] in ("target", "retain_reference"))
    if entry["event"] == "RunFinished":  # but for the manifest, which says whether it has
        return True
    return bool(entry["event"] == "CheckpointSaved" and entry["step"] > told)


def _each_once(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without steps, checkpoints and evaluations that were made again later, in the order of the
    log."""
    kept: dict[object, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries):
        names = ONCE.get(entry["event"])
        key = (entry["event"], *(entry[name] for name in names)) if names else place
        kept.pop(key, None)
        kept[key] = entry
    return list(kept.values())


def _drop_cut_line(descriptor: int) -> None:
    """Cut the log back to its last newline, should a kill have left half a line."""
    size = os.fstat(descriptor).st_size
    if size == 0 or _bytes_at(descriptor, size - 1, 1) == b"\n":
        return
    whole = _bytes_at(descriptor, 0, size)
    os.ftruncate(descriptor, whole.rfind(b"\n") + 1)


def _bytes_at(descriptor: int, offset: int, count: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)
