"""Files: written whole or not at all, locked, hashed, read back as text and as JSON.

What is written holds none of this process's tokens (`safe_text.py`). Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from unlearn_cli.errors import RunError
from unlearn_cli.safe_text import without_own

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSALS = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Of a disk that is full, read-only, not ours, or broken."""

LARGEST = 2 * 2**30
"""Bytes of a file that is read as a whole: the values of a few million rows, or the log of as many
steps."""


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8), or leave it as it was.

    Raises:
        RunError: naming the path, when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # machines may share pids
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(without_own(text))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def lock_file(path: Path) -> Iterator[Callable[[], bool]]:
    """Yields a function that takes the lock of this name: False where another process has it.

    The lock is the kernel's and ends with the block or the process, however that dies (advisory;
    not on Windows).
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    with file:
        yield lambda: _flock(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError becomes a RunError that says where, and what to do about it."""
    try:
        yield
    except OSError as error:
        hint = "free some space" if error.errno in FULL else "check the folder and its permissions"
        what = f"cannot write: {error.strerror or error}"
        raise RunError(what, where=str(path), hint=hint) from error


def disk_error(error: BaseException) -> RunError | None:
    """The line for what a disk refuses, whoever asked it: a library, or a deletion of ours."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    hint = "free some space" if error.errno in FULL else "check the folder and its permissions"
    what = f"cannot be changed: {error.strerror}"
    return RunError(what, where=str(error.filename or ""), hint=hint)


def read_text(path: Path) -> str:
    """The file as UTF-8; RunError naming it where it cannot be read."""
    try:
        _refuse_endless(path.stat())
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot be read: {error}", where=str(path)) from error


def _refuse_endless(found: os.stat_result) -> None:
    """A folder that somebody lent may have a pipe or a device by the name of a file."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if found.st_size > LARGEST:
        raise OSError(f"it is larger than {LARGEST / 2**30:.0f} GiB")


def parse_json(text: str, where: str) -> Any:
    """JSON without the constants NaN and Infinity, which are not JSON, and without numbers that
    are too large for one."""
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise RunError(f"damaged JSON: {error}", where=where) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; RunError naming it where it cannot be read."""
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of TOML text; RunError naming `where` for what is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"damaged TOML: {error}", where=where) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    _finite(digits)  # it may be read as a fraction later
    return int(digits)


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"{digits} is too large")
    return value


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numpy values as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else str(value)


def is_name(text: str) -> bool:
    """Whether it names one file or folder, wherever that is put: no path, nothing hidden."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*", text) is not None


def sha256(path: Path) -> str:
    """SHA-256 (hex) of the bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def now() -> str:
    """The time in UTC, to the millisecond: `2025-01-31T12:00:00.000Z`."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
