"""The tokens of a run's rows; those of rows that are kept on disk are kept there too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlearn_cli.api.data import Row
from unlearn_cli.engine.arrays import ArrayWriter, read_arrays
from unlearn_cli.engine.cache import cache_folder, content_key, make_once
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.rows import KeptRows, batches, named
from unlearn_cli.engine.sequences import Indices, Sequences
from unlearn_cli.environment import versions
from unlearn_cli.errors import DataError

if TYPE_CHECKING:
    from unlearn_cli.engine.session import Session

Parts = Iterator[Sequence[Sequence[Encoded]]]
"""For some rows at a time, the sequences of each."""


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The rows of one split as I sequences; a long text has several, any other row one."""

    name: str
    rows: Sequence[Row]
    items: Sequences
    row: Indices
    """(I,) index in `rows` of each sequence, ascending."""


def encode(session: Session, encoder: Encoder, rows: Sequence[Row], split: str) -> EncodedSplit:
    """As `encode_split`; where the rows are kept on disk, only once for their content."""
    if not isinstance(rows, KeptRows):
        return encode_split(encoder, rows, split)
    decisive = (encoder.fingerprint, rows.fingerprint)
    parts = encoded_parts(encoder, rows, split)
    return EncodedSplit(split, rows, *keep_tokens(session, decisive, split, len(rows), parts))


def encode_split(encoder: Encoder, rows: Sequence[Row], split: str) -> EncodedSplit:
    """Encode all rows of a split.

    Raises:
        DataError: rows without an answer token, or with an answer that does not fit; names them.
    """
    return EncodedSplit(split, rows, *in_arrays([*chain(*encoded_parts(encoder, rows, split))]))


def encoded_parts(encoder: Encoder, rows: Sequence[Row], split: str) -> Parts:
    """Encode rows, some at a time; raises as `encode_split`."""
    silent: list[str] = []
    for part in batches(rows):
        try:
            encoded = encoder.encode_many(part)
        except DataError as error:
            where = f"{split}, {error.where}"
            raise DataError(error.what, where=where, hint=error.hint) from error
        silent += [row.id for row, items in zip(part, encoded, strict=True) if not items]
        yield encoded
    if silent:
        what = f"{named(silent)} without an answer token"
        raise DataError(what, where=split, hint="fill these answers, or drop the rows")


def in_arrays(encoded: Sequence[Sequence[Encoded]]) -> tuple[Sequences, Indices]:
    """The sequences of rows, and (I,) the row of each."""
    counts = [len(items) for items in encoded]
    return Sequences.of(chain(*encoded)), np.repeat(np.arange(len(encoded)), counts)


def keep_tokens(
    session: Session, decisive: Any, name: str, rows: int, parts: Parts
) -> tuple[Sequences, Indices]:
    """As `in_arrays`, in arrays on disk, which are made once for what decides them.

    Args:
        session: its main process makes them.
        decisive: as JSON holds it.
        name: of what is encoded, for people.
        rows: how many.
        parts: of all rows.
    """
    folder = cache_folder("tokens") / content_key(versions(), decisive)

    def make(place: Path) -> None:
        with session.stage("tokenize", f"Tokenize {name}", rows, "rows") as progress:
            session.on_main(_write(place, parts), progress)

    make_once(session, folder, make)
    arrays = read_arrays(folder)
    row = arrays.pop("row")
    return Sequences(**arrays), row


def _write(folder: Path, parts: Parts) -> Iterator[int]:
    """Write sequences; yields the rows that are done."""
    done, end = 0, 0
    with ArrayWriter(folder) as writer:
        writer.add(edges=np.zeros(1, np.int64))
        for encoded in parts:
            items, row = in_arrays(encoded)
            writer.add(
                input_ids=items.input_ids,
                edges=end + items.edges[1:],
                start=items.start,
                end=items.end,
                row=done + row,
            )
            done, end = done + len(encoded), end + len(items.input_ids)
            yield done
