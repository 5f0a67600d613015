"""MUSE: news articles or books, and the questions asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from unlearn_cli.api.data import Bundle, DataContext, Location, Row
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import Record, is_hub_id, read, read_hub
from unlearn_plugins.datasets._rows import Columns, Kind, make_rows

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class MUSE:
    """MUSE: forget news articles or books, and keep others (Shi et al., 2024).

    arXiv:2407.06460. Unlearned are texts. Evaluated are their continuations (`forget_verbmem`),
    questions about them (`forget_knowmem`) and about what is to be kept (`retain_knowmem`), each
    behind the shots that belong to it, and excerpts to tell from such of texts that no model has
    seen (`forget_privleak`, `holdout_privleak`). A row's id is its index in its split.

    Differences from the official code: (1) texts are not joined into one stream: no sequence has
    parts of two, and the last of a text is not filled up. (2) What a token would reach across is
    kept apart: a space is put between a prompt and its continuation where neither has one, and the
    space behind `Answer:` belongs to the answer.
    """

    path: Location = "muse-bench/MUSE-News"
    """Hub id (`muse-bench/MUSE-News`, `muse-bench/MUSE-Books`), or a folder with a file
    `CONFIG/SPLIT.jsonl`, `.json` or `.parquet` for each split."""
    part: Literal["raw", "scal", "sust"] = "raw"
    """Texts to forget: all of the benchmark (`raw`), or one fold of News: of growing size (`scal`),
    or one request after another (`sust`; start the next from the model of the last)."""
    fold: Annotated[int, Ge(1), Le(4)] | None = None
    """Which fold of `scal` or `sust`, 1 to 4."""

    def load(self, context: DataContext) -> Bundle:
        """Read the splits.

        Raises:
            DataError: a split is missing, or `fold` does not go with `part`.
        """
        source = _Source(self.path, context.base)
        holdout = source.rows("privleak", "holdout", "text")
        return Bundle(
            forget=source.rows(self.part, self._forget, "text"),
            retain=source.rows("raw", "retain1", "text"),
            holdout=holdout,
            evaluation={
                "forget_verbmem": tuple(map(_apart, source.rows("verbmem", "forget"))),
                "forget_knowmem": _few_shot(source, "forget_qa"),
                "retain_knowmem": _few_shot(source, "retain_qa"),
                "forget_privleak": source.rows("privleak", "forget", "text"),
                "holdout_privleak": holdout,
            },
            columns={"path": source.where},
        )

    @property
    def _forget(self) -> str:
        """The split to forget."""
        if (self.part == "raw") != (self.fold is None):
            hint = "set it to 1, 2, 3 or 4" if self.fold is None else 'it goes with "scal", "sust"'
            what = f'{self.fold or "nothing"} with part = "{self.part}"'
            raise DataError(what, where="[data].fold", hint=hint)
        return "forget" if self.fold is None else f"forget_{self.fold}"


def _few_shot(source: _Source, split: str) -> tuple[Row, ...]:
    """The questions of a split, each behind those of the split of shots."""
    shots = source.rows("knowmem", f"{split}_icl", "qa")
    before = "".join(f"{_question(shot)}{shot.answer}\n\n" for shot in shots)
    return tuple(
        replace(row, kind="completion", messages=(), prompt=before + _question(row))
        for row in source.rows("knowmem", split, "qa")
    )


def _question(row: Row) -> str:
    return f"Question: {row.question}\nAnswer: "


def _apart(row: Row) -> Row:
    """The row with white space between prompt and answer."""
    together = not row.prompt[-1:].isspace() and not row.answer[:1].isspace()
    return replace(row, answer=f" {row.answer}") if together else row


class _Source:
    """A folder of splits, or the hub."""

    def __init__(self, path: str, base: Path) -> None:
        folder = (base / Path(path).expanduser()).absolute()
        self.folder = folder if folder.is_dir() else None
        self.path = path
        if self.folder is None and not is_hub_id(path):
            hint = "give a folder with raw/forget.jsonl and its kin, or muse-bench/MUSE-News"
            raise DataError("no such folder", where=str(folder), hint=hint)

    @property
    def where(self) -> str:
        return str(self.folder or self.path)

    def rows(self, config: str, split: str, kind: Kind = "completion") -> tuple[Row, ...]:
        """The rows of a split."""
        records = self._records(config, split)
        return make_rows(records, Columns(completion="gt"), kind, settable=False).rows

    def _records(self, config: str, split: str) -> Sequence[Record]:
        if self.folder is None:
            return read_hub(self.path, config, split)
        found = (self.folder / config / f"{split}{suffix}" for suffix in SUFFIXES)
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            there = sorted(file.stem for file in (self.folder / config).glob("*.*"))
            hint = f"the folder has {', '.join(there) or 'none'}"
            raise DataError("no such split", where=str(self.folder / config / split), hint=hint)
        return read(file)
