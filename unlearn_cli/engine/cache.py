"""What runs share, named by the content it came from: models, evaluations, references, rows,
tokens."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn_cli.engine.models import replace_folder
from unlearn_cli.errors import RunError
from unlearn_cli.events import Notice
from unlearn_cli.files import lock_file

if TYPE_CHECKING:
    from unlearn_cli.engine.session import Session

PATIENCE = 1.0
"""Seconds between two looks at an entry that another run is making."""


def cache_folder(kind: str) -> Path:
    """The folder for one kind of result: `$UNLEARN_CACHE`, else `~/.cache/unlearn`."""
    root = os.environ.get("UNLEARN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = Path(root or Path(base) / "unlearn").expanduser() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the cache cannot be written ({error.strerror})",
            where=str(folder),
            hint="set UNLEARN_CACHE to a folder that can",
        ) from error
    return folder


def content_key(*parts: Any) -> str:
    """Name of a result: the first 32 hex digits of the sha256 of everything that decides it."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def ours_to_make(
    session: Session, folder: Path, there: Callable[[Path], bool] = Path.exists
) -> Iterator[bool]:
    """Whether an entry of the cache is missing; while entered no other run makes it.

    Where one does so now, this waits: by short looks, since a process that waited for the lock
    could not tell the others, whose collective operations time out.
    """
    if session.decide(lambda: there(folder)):  # a finished cache may be one that cannot be written
        yield False
        return
    with lock_file(folder.with_name(f".{folder.name}.lock")) as take:
        if not session.decide(take):
            session.emit(Notice("another run is making the same: waiting for it"))
            while not session.decide(take):
                time.sleep(PATIENCE)
        yield not session.decide(lambda: there(folder))


def make_once(
    session: Session,
    folder: Path,
    make: Callable[[Path], None],
    there: Callable[[Path], bool] = Path.exists,
) -> bool:
    """Make an entry of the cache that is a folder, beside its final name, unless it is there.

    Args:
        session: its processes make it together.
        folder: the entry.
        make: fills the folder that it is given, on all processes.
        there: whether the entry is complete.

    Returns:
        Whether it was made now.
    """
    main, wait = session.accelerator.is_main_process, session.accelerator.wait_for_everyone
    partial = folder.with_name(f"{folder.name}.partial")
    with ours_to_make(session, folder, there) as missing:
        if missing:
            if main:
                shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            wait()
            make(partial)
            if main:
                replace_folder(partial, folder)
            wait()
    return missing
