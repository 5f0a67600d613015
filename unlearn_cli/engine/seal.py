"""Folders that tell whether they are whole: the hashes of all their files, written last."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from unlearn_cli.errors import RunError
from unlearn_cli.files import sha256, write_atomically

SEAL = "hashes.json"


def seal(folder: Path) -> None:
    """Write down what the files of a folder are, the last thing before it gets its name."""
    hashes = {name: sha256(folder / name) for name in sorted(_names(folder))}
    (folder / SEAL).write_text(json.dumps(hashes), encoding="utf-8")


def add(folder: Path, name: str, text: str) -> None:
    """Put one more file into a folder that is sealed."""
    write_atomically(folder / name, text)
    hashes = {**_sealed(folder), name: sha256(folder / name)}
    write_atomically(folder / SEAL, json.dumps(hashes))


def added(folder: Path, name: str) -> str | None:
    """The text that was added; None where it was not, or only half of that was done."""
    try:
        if _is_whole(folder / name, _sealed(folder).get(name)):
            return (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass
    return None


def check(folder: Path, later: Collection[str] = ()) -> None:
    """Raise RunError naming the file that is not as it was sealed, is gone, or is one more, but for
    those that are added `later`."""
    try:
        hashes = _sealed(folder)
        for name in sorted({*hashes, *(_names(folder) - {*later})}):
            if not _is_whole(folder / name, hashes.get(name)):
                raise RunError("is damaged", where=str(folder / name))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"is damaged ({error})", where=str(folder)) from error


def _sealed(folder: Path) -> Mapping[str, str]:
    hashes: Mapping[str, str] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    return hashes


def _names(folder: Path) -> set[str]:
    """The files of a folder, by their paths in it, with forward slashes."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found} - {SEAL}


def _is_whole(path: Path, wanted: str | None) -> bool:
    """Whether it is the file that was written: no link out of the folder, none that was added."""
    return not path.is_symlink() and path.is_file() and sha256(path) == wanted
