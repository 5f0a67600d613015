"""What runs share, named by the content it came from: models, evaluations, references, alternates,
rows, tokens. Every entry is a folder that is sealed."""

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

from unlearn_cli.engine.models import replace_folder, writing
from unlearn_cli.engine.seal import check, seal
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


def make_once(session: Session, folder: Path, make: Callable[[Path], None]) -> bool:
    """Make an entry of the cache, a folder, beside its final name, unless it is there and whole.

    Args:
        session: its processes make it together.
        folder: the entry.
        make: fills the folder that it is given, on all processes.

    Returns:
        Whether it was made now.
    """
    main, wait = session.accelerator.is_main_process, session.accelerator.wait_for_everyone
    partial = folder.with_name(f"{folder.name}.partial")
    with _ours_to_make(session, folder) as missing:
        if missing:
            if main:
                shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            wait()
            make(partial)
            if main:
                with writing("the cache", folder):
                    seal(partial)
                    replace_folder(partial, folder)
            wait()
    return missing


@contextmanager
def _ours_to_make(session: Session, folder: Path) -> Iterator[bool]:
    """Whether an entry of the cache is missing; while entered no other run makes it.

    Where one does so now, this waits: by short looks, since a process that waited for the lock
    could not tell the others, whose collective operations time out.
    """
    damage: list[str] = []

    def whole() -> bool:
        damage[:] = _damage(folder)
        return folder.exists() and not damage

    if session.decide(whole):  # a finished cache may be one that cannot be written
        yield False
        return
    with lock_file(folder.with_name(f".{folder.name}.lock")) as take:
        if not session.decide(take):
            session.emit(Notice("another run is making the same: waiting for it"))
            while not session.decide(take):
                time.sleep(PATIENCE)
        missing = not session.decide(whole)
        for line in damage:
            session.emit(Notice(f"made again, as what the cache has of it is not whole: {line}"))
        yield missing


def _damage(folder: Path) -> list[str]:
    """What is wrong with an entry that is there; one bit would make another result."""
    try:
        if folder.exists():
            check(folder)
    except RunError as error:
        return [error.line()]
    return []
