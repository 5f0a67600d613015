"""The moments of a run: every change of a file, seen just before it is made."""

from __future__ import annotations

import os
from collections.abc import Sequence

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")


def moment(event: str, arguments: Sequence[object], folder: str) -> str:
    """What an audit event is about to do to a file below a folder, e.g. `os.rename runs/a/b`; empty
    for all else."""
    writes = event == "open" and int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR)
    if not (writes or event in CHANGES) or not isinstance(arguments[0], str | os.PathLike):
        return ""
    path = os.path.abspath(arguments[0])  # noqa: PTH100 - as cheap as can be
    return f"{event} {path[len(folder) + 1 :]}" if path.startswith(folder + os.sep) else ""
