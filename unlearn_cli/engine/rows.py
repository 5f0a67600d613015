"""Rows as data sets give them: in memory, or kept on disk; and what tells them apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api.data import Message, Reading, Row, Split, in_memory
from unlearn_cli.engine.arrays import ArrayWriter, read_arrays, read_index
from unlearn_cli.engine.cache import cache_folder, content_key, make_once
from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.environment import versions
from unlearn_cli.files import sha256

if TYPE_CHECKING:
    from unlearn_cli.engine.session import Session

LARGE = 8 * 2**20
"""Bytes of files from which on their rows are kept on disk."""
BATCH, ROW = 2**18, 200
"""Characters of rows that are in memory at once, and what a row counts besides its text."""
NAMED = 10
"""Rows that a message names before it only counts."""
Keys = NDArray[np.bytes_]


class KeptRows(Sequence[Row]):
    """Rows in a folder of arrays; one is made when it is asked for.

    rows   JSON lines, of which `fingerprint` is the hash
    edges  where each line begins, and the end of the last
    keys   (R,) as `keys`
    """

    def __init__(self, folder: Path) -> None:
        arrays, index = read_arrays(folder), read_index(folder)
        self._lines, self._edges, self.keys = arrays["rows"], arrays["edges"], arrays["keys"]
        self.fingerprint = str(index["hashes"]["rows"])
        self.columns: dict[str, str] = index["notes"]

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, slice):
            return Lazy(range(len(self))[at], self.__getitem__)
        at = range(len(self))[at]
        return _row(self._lines[self._edges[at] : self._edges[at + 1]].tobytes())


def keep(
    session: Session,
    reader: str,
    read: Callable[[], Reading],
    files: Sequence[Path],
    options: Any,
) -> Split:
    """`unlearn_cli.api.data.Keep`: rows of large files are read once for their content, and for the
    `reader`, the data set and its version."""
    if sum(file.stat().st_size for file in files) < LARGE:
        return in_memory(read, files, options)
    folder = cache_folder("rows") / content_key(versions(), reader, options, [*map(sha256, files)])

    def make(place: Path) -> None:
        title = f"Read {', '.join(file.name for file in files)}"
        with session.stage("read", title, unit="rows") as progress:
            session.on_main(_write(read, place), progress)

    make_once(session, folder, make)
    rows = KeptRows(folder)
    return Split(rows, rows.columns)


def _write(read: Callable[[], Reading], folder: Path) -> Iterator[int]:
    """Write rows; yields how many are there now."""
    end, done, reading = 0, 0, read()
    with ArrayWriter(folder) as writer:
        writer.notes = dict(reading.columns)
        writer.add(edges=np.zeros(1, np.int64))
        for rows in batches(reading.rows):
            lines = [_line(row) for row in rows]
            edges = end + np.cumsum([len(line) for line in lines])
            text = np.frombuffer(b"".join(lines), np.uint8)
            writer.add(rows=text, edges=edges, keys=keys(rows))
            end, done = int(edges[-1]), done + len(rows)
            yield done


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows, some at a time: many short ones, or a few long texts."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += ROW + sum(map(len, _texts(row)))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def named(ids: Sequence[str]) -> str:
    """`3 rows (a, b, c)`, the first ten by name."""
    more = ", ..." if len(ids) > NAMED else ""
    noun = "row" if len(ids) == 1 else "rows"
    return f"{len(ids)} {noun} ({', '.join(ids[:NAMED])}{more})"


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) of the content of rows, in their order."""
    if isinstance(rows, KeptRows):
        return rows.fingerprint
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_line(row))
    return digest.hexdigest()


def keys(rows: Sequence[Row]) -> Keys:
    """(R,) a hash of the text of each, whatever its case and white space: equal for equal rows."""
    if isinstance(rows, KeptRows):
        return rows.keys
    return np.array([_key(row) for row in rows], "S16")


def _key(row: Row) -> bytes:
    """Of all text of a row in lower case, with single spaces."""
    text = "\n".join(" ".join(text.casefold().split()) for text in _texts(row))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _texts(row: Row) -> list[str]:
    return [*(turn.content for turn in row.messages), row.prompt, row.answer]


def _line(row: Row) -> bytes:
    """A row as one line of JSON."""
    plain = vars(row) | {"messages": [vars(message) for message in row.messages]}
    return json.dumps(plain, sort_keys=True).encode() + b"\n"


def _row(line: bytes) -> Row:
    """What `_line` wrote."""
    values: dict[str, Any] = json.loads(line)
    messages = tuple(Message(**message) for message in values.pop("messages"))
    plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Row(**plain, messages=messages)
