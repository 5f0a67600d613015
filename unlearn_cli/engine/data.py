"""The rows of a run: encoded, checked, and told apart by their content."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.errors import DataError

NAMED = 10  # rows that a message names before it only counts


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The rows of one split as I sequences; a long text has several, any other row one."""

    name: str
    rows: tuple[Row, ...]
    items: tuple[Encoded, ...]
    row: NDArray[np.int64]
    """(I,) index in `rows` of each sequence, ascending."""

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(item.input_ids) for item in self.items)

    @property
    def answer_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(item.end - item.start for item in self.items)


def encode_split(encoder: Encoder, rows: Sequence[Row], split: str) -> EncodedSplit:
    """Encode all rows of a split.

    Raises:
        DataError: rows without an answer token, or with an answer that does not fit; names them.
    """
    try:
        encoded = encoder.encode_many(rows)
    except DataError as error:
        where = f"{split}, {error.where}"
        raise DataError(error.what, where=where, hint=error.hint) from error
    silent = [row.id for row, items in zip(rows, encoded, strict=True) if not items]
    if silent:
        what = f"{_rows(silent)} without an answer token"
        raise DataError(what, where=split, hint="fill these answers, or drop the rows")
    return EncodedSplit(
        name=split,
        rows=tuple(rows),
        items=tuple(item for items in encoded for item in items),
        row=np.repeat(np.arange(len(rows)), [len(items) for items in encoded]),
    )


def check_overlap(bundle: Bundle, policy: Literal["error", "warn", "allow"]) -> list[str]:
    """Look for rows that stand in two splits, or twice in forget.

    Two rows are the same where prompt and answer are, whatever their case and white space.

    Returns:
        Notices: rows in two splits (none where `policy` is `allow`), and duplicates in forget.

    Raises:
        DataError: nothing to forget; or, where `policy` is `error`, rows in two splits.
    """
    if not bundle.forget:
        raise DataError("no rows to forget", where="[data].forget", hint="give at least one row")
    found = [] if policy == "allow" else list(_overlaps(bundle))
    if found and policy == "error":
        hint = 'remove them from one of the two, or set [data].overlap = "warn"'
        raise DataError("; ".join(found), where="[data]", hint=hint)
    twice = _duplicates(bundle.forget)
    return found + ([f"{_rows(twice)} of forget repeating an earlier one"] if twice else [])


def _overlaps(bundle: Bundle) -> Iterable[str]:
    pairs = (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout"))
    splits = {"forget": bundle.forget, "retain": bundle.retain, "holdout": bundle.holdout}
    for one, other in pairs:
        keys = {_key(row) for row in splits[other]}
        shared = [row.id for row in splits[one] if _key(row) in keys]
        if shared:
            yield f"{_rows(shared)} of {one} also in {other}"


def _duplicates(rows: Sequence[Row]) -> list[str]:
    """Ids of the rows that repeat an earlier one."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_key[_key(row)].append(row.id)
    return [name for names in by_key.values() for name in names[1:]]


def _key(row: Row) -> str:
    """All text of a row in lower case, with single spaces."""
    turns = [turn.content for turn in row.messages]
    return "\n".join(" ".join(t.casefold().split()) for t in [*turns, row.prompt, row.answer])


def _rows(ids: Sequence[str]) -> str:
    """`3 rows (a, b, c)`, the first ten by name."""
    more = ", ..." if len(ids) > NAMED else ""
    noun = "row" if len(ids) == 1 else "rows"
    return f"{len(ids)} {noun} ({', '.join(ids[:NAMED])}{more})"


def load_alternates(setting: str, rows: Sequence[Row], base: Path) -> list[tuple[str, ...]]:
    """The answers to prefer, for each row at least one.

    Args:
        setting: `refusals`, `column`, or the path of a text file with one answer a line.
        rows: the forget rows.
        base: folder against which the path is resolved.

    Raises:
        DataError: rows without alternates, or a file that is missing, empty or not UTF-8.
    """
    if setting == "column":
        return _own_alternates(rows)
    if setting == "refusals":
        text = resources.files("unlearn_cli.engine").joinpath("refusals.txt").read_text("utf-8")
    else:
        text = _read_text(base / Path(setting).expanduser())
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise DataError("has no answers", where=setting, hint="give one answer a line")
    return [lines] * len(rows)


def _own_alternates(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    without = list(dict.fromkeys(row.id for row in rows if not row.alternates))
    if without:
        raise DataError(
            f"{_rows(without)} without alternate answers",
            where="[data].alternates",
            hint='fill the alternate column, or set [data].alternates = "refusals"',
        )
    return [row.alternates for row in rows]


def _read_text(path: Path) -> str:
    hint = 'give "refusals", "column", or a UTF-8 text file with one answer a line'
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", where=str(path), hint=hint) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError(what, where=str(path), hint=hint) from None


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) of the content of rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def show_tokens(tokenizer: Any, encoded: Encoded) -> list[tuple[str, bool]]:
    """The text of a sequence in pieces, special tokens shown, and whether each carries loss.

    The pieces joined are the text of the whole: an answer keeps the space before its first word.
    """
    ids = [int(token) for token in encoded.input_ids]
    edges = [0, encoded.start, encoded.end, len(ids)]
    texts = [tokenizer.decode(ids[:edge], clean_up_tokenization_spaces=False) for edge in edges]
    return [(texts[k + 1][len(texts[k]) :], k == 1) for k in range(3) if edges[k] < edges[k + 1]]
