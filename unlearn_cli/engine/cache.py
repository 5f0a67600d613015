"""What runs share: fine-tuned models and evaluations, named by the content they came from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from unlearn_cli.errors import RunError


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
