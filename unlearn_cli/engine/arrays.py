"""A folder of arrays: written piece by piece, read memory-mapped."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.engine.models import writing

INDEX = "index.json"
"""Types and hashes of the arrays, and what else is told of them; written last."""


class ArrayWriter:
    """Writes arrays that grow; complete when the block ends without an error.

    `notes`, which may be filled until then, are kept as JSON.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, dict[str, Any]()
        self._files: dict[str, IO[bytes]] = {}
        self._hashes: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._open = ExitStack()

    def add(self, **pieces: NDArray[Any]) -> None:
        """Append to arrays, by their names."""
        with writing("the cache", self.folder):
            for name, piece in pieces.items():
                data = piece.tobytes()
                self._file(name, piece.dtype.str).write(data)
                self._hashes[name].update(data)

    def _file(self, name: str, kind: str) -> IO[bytes]:
        if name not in self._files:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._files[name] = self._open.enter_context((self.folder / name).open("wb"))
            self._hashes[name], self._types[name] = hashlib.sha256(), kind
        return self._files[name]

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with writing("the cache", self.folder):
            self._open.close()
            if kind is None:
                hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
                index = {"types": self._types, "hashes": hashes, "notes": self.notes}
                (self.folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def read_index(folder: Path) -> dict[str, Any]:
    """`types`, `hashes` (SHA-256, hex) and `notes` of the arrays of a folder."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return index


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays, memory-mapped, read-only."""
    return {
        name: np.asarray(np.memmap(folder / name, kind, "r"))
        for name, kind in read_index(folder)["types"].items()
    }
