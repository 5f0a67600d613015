"""Text that may be a path: whatever it holds, asking about it raises nothing."""

from __future__ import annotations

from pathlib import Path


def user_path(text: str) -> Path:
    """The path with `~` written out, where there is such a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def exists(path: Path) -> bool:
    """Whether a file or folder is there; False too where the text cannot be, or hides, a path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether a file is there; False as in `exists`."""
    return exists(path) and path.is_file()
