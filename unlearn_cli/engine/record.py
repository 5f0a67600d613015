"""The run folder while a run writes to it: begun or continued, locked, logged, closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlearn_cli.engine.memory import ran_out
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.zero import stage_of
from unlearn_cli.errors import Interrupted, RunError, UnlearnError, UsageError, signal_of
from unlearn_cli.events import Event, Listener, Notice, RunFailed, RunStarted
from unlearn_cli.files import disk_error, now, parse_toml, read_toml
from unlearn_cli.runs import RunFolder
from unlearn_cli.safe_text import redact

MAY_CHANGE = ("train.micro_batch", "output.folder", "output.tensorboard")
"""Keys that a resumed run may change: they do not touch the result."""


def open_folder(path: Path, spec_toml: str, resume: bool) -> RunFolder:
    """The folder of a run that begins, or goes on.

    Raises:
        UsageError: it holds a run and `resume` is off, or it holds that of another spec.
    """
    if not resume:
        return RunFolder.create(path, spec_toml)
    folder = RunFolder.open(path)
    before = dict(_flat(read_toml(folder.spec)))
    new = dict(_flat(parse_toml(redact(spec_toml), "the spec")))
    changed = [
        key
        for key in sorted({*before, *new})
        if before.get(key) != new.get(key) and key not in MAY_CHANGE
    ]
    if changed:
        raise UsageError(
            f"the run that is there has another {', '.join(changed)}",
            where=str(path),
            hint=f"resume with: unlearn run {folder.spec} --resume",
        )
    return folder


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


@contextmanager
def recorded(
    session: Session, folder: RunFolder, listener: Listener, found: dict[str, Any]
) -> Iterator[None]:
    """Hold the folder's lock, write every event to its log, and to its manifest the environment
    that was found, the outcome and the hashes of the result."""

    def both(event: Event) -> None:
        folder.append_event(event)
        session.track(event)
        listener(event)

    with folder.lock():
        session.listener = both
        folder.drop_leftovers()
        created = folder.manifest.get("created") or now()
        folder.update_manifest(created=created, status="running", error=None, environment=found)
        resume_with = f"resume with: unlearn run {folder.spec} --resume"
        try:
            _say_what_begins(session, folder)
            yield
        except (KeyboardInterrupt, Interrupted) as error:
            folder.update_manifest(status="interrupted")
            what = error.what if isinstance(error, Interrupted) else "interrupted"
            raise Interrupted(what, hint=resume_with, by=signal_of(error)) from None
        except BaseException as error:  # a sys.exit too, which a plugin or a library may call
            known = error if isinstance(error, UnlearnError) else disk_error(error)
            line = known.line() if known else redact(repr(error))
            folder.update_manifest(status="failed", error=line)  # first: who listens may fail
            session.emit(RunFailed(line))
            if ran_out(error):
                raise RunError(
                    "out of memory",
                    where=str(session.device),
                    hint="set train.micro_batch = 1 and train.activation_checkpointing = true, "
                    "lower data.max_length, or train an adapter with [lora]",
                ) from error
            raise
        folder.update_manifest(status="finished", finished=now(), files=folder.hashes())


def _say_what_begins(session: Session, folder: RunFolder) -> None:
    spec, accelerator = session.spec, session.accelerator
    session.emit(
        RunStarted(
            spec.name,
            str(folder.folder),
            spec.method.name,
            str(session.device),
            accelerator.num_processes,
        )
    )
    by_deepspeed = stage_of(accelerator)
    if session.sharding or by_deepspeed:
        what = "model" if session.sharding else "optimizer"
        by = ", by DeepSpeed" if by_deepspeed else ""
        session.emit(Notice(f"each process holds a part of the {what}{by}"))
