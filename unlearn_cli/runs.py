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

import errno
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.events import EvaluationDone, Event

FORMAT = 1
"""Version of the evaluation file; raised whenever an older reader would misread it."""

PACKAGES = (
    "unlearn-cli",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scipy",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM")


@dataclass(frozen=True)
class Generated:
    """What a model answered to the question of one row."""

    set: str
    id: str
    question: str
    truth: str
    generation: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one model, as stored."""

    evaluator: str
    label: str
    """As in `events.EvaluationDone`."""
    step: int
    table: Table
    model: str
    """Fingerprint of the weights."""
    data: str
    """Fingerprint of the rows that were scored."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the evaluator, and whatever else decides the numbers."""
    samples: tuple[Generated, ...] = ()
    """Every generated row."""
    format: int = FORMAT

    def to_json(self) -> str:
        """The file's text. What is not finite is written as null, a figure with its reason."""
        numbers = {name: _finite(number) for name, number in self.table.numbers.items()}
        whole = replace(self, table=replace(self.table, numbers=numbers))
        return json.dumps(_plain(whole), ensure_ascii=False, allow_nan=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "evaluation") -> Evaluation:
        """Read `to_json` back.

        Raises:
            RunError: naming `where`, for another format version or a damaged file.
        """
        from pydantic import TypeAdapter, ValidationError

        _check_format(_parse(text, where), where)
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            what = f"not a stored evaluation: {key}: {first['msg']}"
            raise RunError(what, where=where, hint=_EVALUATE_AGAIN) from None

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read the file at `path`; RunError naming it where it cannot be read."""
        return cls.from_json(_read(path), str(path))


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
        """Make a new run in `folder`, which must be missing or empty.

        Raises:
            UsageError: the folder holds a run, or anything else; nothing is overwritten.
            RunError: it cannot be written.
        """
        run = cls(folder)
        run._refuse_what_is_there()
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:  # exclusive: of two processes that start at once, one is refused
                with run.spec.open("x", encoding="utf-8") as file:
                    file.write(spec_toml)
            except FileExistsError:
                raise _already_holds_a_run(folder) from None
        run.update_manifest(created=_now())
        return run

    @classmethod
    def open(cls, folder: Path) -> RunFolder:
        """The run that is in `folder`; UsageError where there is none."""
        run = cls(folder)
        if not run.spec.is_file():
            hint = "give the folder that `unlearn run` wrote, e.g. runs/NAME"
            raise UsageError("holds no run", where=str(folder), hint=hint)
        return run

    def _refuse_what_is_there(self) -> None:
        if self.spec.exists():
            raise _already_holds_a_run(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError("is a file, not a folder", where=str(self.folder))
        if self.folder.is_dir() and any(self.folder.iterdir()):
            hint = "choose another name or output.folder"
            raise UsageError("is not empty", where=str(self.folder), hint=hint)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run.

        Raises:
            UsageError: another process is.
        """
        with lock_file(self.folder / ".lock") as take:
            if not take():
                hint = "wait for it to end, or choose another name"
                where = str(self.folder)
                raise UsageError("another process is writing to this run", where=where, hint=hint)
            yield

    @property
    def manifest(self) -> dict[str, Any]:
        """What `update_manifest` has been told so far."""
        if not self._manifest.exists():
            return {}
        parsed = _parse(_read(self._manifest), str(self._manifest))
        if not isinstance(parsed, dict):
            raise RunError("is not a JSON object", where=str(self._manifest))
        return parsed

    def update_manifest(self, **values: Any) -> None:
        """Set the given keys, keep the others; atomic."""
        whole = _plain(self.manifest | values)
        text = json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=2)
        write_atomically(self._manifest, text + "\n")

    def append_event(self, event: Event) -> None:
        """Add one line to the log. Tables of numbers stand in their own files and are left out."""
        entry = {"event": type(event).__name__, "time": _now()} | _plain(event)
        if isinstance(event, EvaluationDone):
            del entry["table"]
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        with _writing(self._events), self._events.open("ab+") as file:
            _drop_cut_line(file.fileno())
            file.write(line.encode("utf-8", "replace"))

    def events(self) -> list[dict[str, Any]]:
        """The log, oldest first; a last line that was cut by a kill is left out.

        Raises:
            RunError: any other line is damaged, naming it.
        """
        if not self._events.exists():
            return []
        lines = _read(self._events).split("\n")[:-1]  # what follows the last newline is cut
        return [_parse(line, f"{self._events}:{n}") for n, line in enumerate(lines, 1)]

    def truncate_events(self, step: int) -> None:
        """Forget what the log says of training after `step`; it is about to happen again.

        Of a stage before it that a kill made happen twice, the later steps stay.
        """
        kept = _each_step_once(entry for entry in self.events() if not _is_after(entry, step))
        lines = [json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in kept]
        write_atomically(self._events, "".join(lines))

    def write_evaluation(self, evaluation: Evaluation) -> str:
        """Store an evaluation; its path relative to the run folder, with forward slashes."""
        path = self._evaluations / _place(evaluation) / f"{evaluation.evaluator}.json"
        write_atomically(path, evaluation.to_json())
        return path.relative_to(self.folder).as_posix()

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
        from tomlkit import parse

        try:
            tables = parse(self.spec.read_text("utf-8")).unwrap().get("evaluate", ())
            return [table["evaluator"] for table in tables]
        except (OSError, ValueError, KeyError, TypeError):  # no spec: the order is of no account
            return []


@contextmanager
def lock_file(path: Path) -> Iterator[Callable[[], bool]]:
    """Yields a function that takes the lock of this name: False where another process has it.

    The lock is the kernel's and ends with the block or the process, however that dies (advisory;
    not on Windows).
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    with file:
        yield lambda: _flock(file.fileno())


def environment() -> dict[str, Any]:
    """Versions and hardware that a result may depend on. Never the host's or the user's name."""
    return {
        "python": platform.python_version(),
        **versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that decide numbers."""
    return {package: _version(package) for package in PACKAGES}


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), or leave it as it was.

    Raises:
        RunError: naming the path, when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # machines may share pids
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


_EVALUATE_AGAIN = "make it again with `unlearn evaluate`"


def _already_holds_a_run(folder: Path) -> UsageError:
    hint = "use --resume or another name"
    return UsageError("already holds a run", where=str(folder), hint=hint)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An OSError becomes a RunError that says where, and what to do about it."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space" if full else "check the folder and its permissions"
        what = f"cannot write: {error.strerror or error}"
        raise RunError(what, where=str(path), hint=hint) from error


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path)) from error


def _parse(text: str, where: str) -> Any:
    """JSON without the constants NaN and Infinity, which are not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(f"damaged JSON: {error}", where=where) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_format(parsed: Any, where: str) -> None:
    found = parsed.get("format") if isinstance(parsed, dict) else None
    if found is None:
        raise RunError("not a stored evaluation of this tool", where=where, hint=_EVALUATE_AGAIN)
    if found != FORMAT:
        what = f"evaluation format {found!r}, this version reads {FORMAT}"
        raise RunError(what, where=where, hint=_EVALUATE_AGAIN)


def _finite(number: Number) -> Number:
    if number.value is None or math.isfinite(number.value):
        return number
    return replace(number, value=None, reason=number.reason or f"the value was {number.value}")


def _plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numpy values as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else str(value)


def _place(evaluation: Evaluation) -> str:
    """Folder of an evaluation; only the target may claim step 0 for itself."""
    if evaluation.label == "retain_reference":
        return evaluation.label
    if evaluation.step == 0 and evaluation.label != "target":
        return evaluation.label
    return f"step-{evaluation.step}"


def _is_after(entry: Mapping[str, Any], step: int) -> bool:
    """Is `entry` about training after `step`? Only training's events count in its steps."""
    if entry["event"] == "StepDone":
        return bool(entry["stage"] == "train" and entry["step"] > step)
    if entry["event"] == "StageProgress":
        return bool(entry["stage"] == "train" and entry["done"] > step)
    if entry["event"] == "EvaluationDone":
        trained = entry["label"] not in ("target", "retain_reference")
        return bool(trained and entry["step"] > step)
    return bool(entry["event"] == "CheckpointSaved" and entry["step"] > step)


def _each_step_once(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the steps that were taken again later, in the order of the log."""
    kept: dict[object, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries):
        is_step = entry["event"] == "StepDone"
        key = (entry["stage"], entry["step"]) if is_step else place
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


def _flock(descriptor: int) -> bool:
    """Take the lock; False where another process has it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, as some network mounts are
        return True
    return True


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
