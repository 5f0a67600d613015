"""The rows of a run: checked, given alternates, and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.engine.rows import keys, named
from unlearn_cli.engine.sequences import Indices
from unlearn_cli.errors import DataError


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
    return found + ([f"{named(twice)} of forget repeating an earlier one"] if twice else [])


def _overlaps(bundle: Bundle) -> Iterable[str]:
    pairs = (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout"))
    splits = {"forget": bundle.forget, "retain": bundle.retain, "holdout": bundle.holdout}
    found = {name: keys(rows) for name, rows in splits.items()}
    for one, other in pairs:
        shared = np.flatnonzero(np.isin(found[one], found[other]))
        if len(shared):
            yield f"{named(_ids(splits[one], shared))} of {one} also in {other}"


def _duplicates(rows: Sequence[Row]) -> Sequence[str]:
    """Ids of the rows that repeat an earlier one."""
    found = keys(rows)
    later = np.ones(len(found), bool)
    later[np.unique(found, return_index=True)[1]] = False
    return _ids(rows, np.flatnonzero(later))


def _ids(rows: Sequence[Row], places: Indices) -> Sequence[str]:
    return Lazy(places, lambda k: rows[k].id)


def load_alternates(setting: str, rows: Sequence[Row], base: Path) -> Sequence[tuple[str, ...]]:
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


def _own_alternates(rows: Sequence[Row]) -> Sequence[tuple[str, ...]]:
    without = list(dict.fromkeys(row.id for row in rows if not row.alternates))
    if without:
        raise DataError(
            f"{named(without)} without alternate answers",
            where="[data].alternates",
            hint='fill the alternate column, or set [data].alternates = "refusals"',
        )
    return Lazy(range(len(rows)), lambda k: rows[k].alternates)


def _read_text(path: Path) -> str:
    hint = 'give "refusals", "column", or a UTF-8 text file with one answer a line'
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", where=str(path), hint=hint) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError(what, where=str(path), hint=hint) from None


def show_tokens(tokenizer: Any, encoded: Encoded) -> list[tuple[str, bool]]:
    """The text of a sequence in pieces, special tokens shown, and whether each carries loss.

    The pieces joined are the text of the whole: an answer keeps the space before its first word.
    """
    ids = [int(token) for token in encoded.input_ids]
    edges = [0, encoded.start, encoded.end, len(ids)]
    texts = [tokenizer.decode(ids[:edge], clean_up_tokenization_spaces=False) for edge in edges]
    return [(texts[k + 1][len(texts[k]) :], k == 1) for k in range(3) if edges[k] < edges[k + 1]]
