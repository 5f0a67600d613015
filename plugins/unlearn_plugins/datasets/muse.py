"""MUSE: news articles or books, and the questions asked of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le

from unlearn_cli.api.data import Bundle, DataContext, Location, Row
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import Benchmark
from unlearn_plugins.datasets._rows import Columns, Kind, make_rows

EXPECTED = "a folder with raw/forget.jsonl and its kin, or muse-bench/MUSE-News"


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
        source = Benchmark(self.path, context.base, EXPECTED)
        holdout = _rows(source, "privleak", "holdout", "text")
        return Bundle(
            forget=_rows(source, self.part, self._forget, "text"),
            retain=_rows(source, "raw", "retain1", "text"),
            holdout=holdout,
            evaluation={
                "forget_verbmem": tuple(map(_apart, _rows(source, "verbmem", "forget"))),
                "forget_knowmem": _few_shot(source, "forget_qa"),
                "retain_knowmem": _few_shot(source, "retain_qa"),
                "forget_privleak": _rows(source, "privleak", "forget", "text"),
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


def _few_shot(source: Benchmark, split: str) -> tuple[Row, ...]:
    """The questions of a split, each behind those of the split of shots."""
    shots = _rows(source, "knowmem", f"{split}_icl", "qa")
    before = "".join(f"{_question(shot)}{shot.answer}\n\n" for shot in shots)
    return tuple(
        replace(row, kind="completion", messages=(), prompt=before + _question(row))
        for row in _rows(source, "knowmem", split, "qa")
    )


def _question(row: Row) -> str:
    return f"Question: {row.question}\nAnswer: "


def _apart(row: Row) -> Row:
    """The row with white space between prompt and answer."""
    together = not row.prompt[-1:].isspace() and not row.answer[:1].isspace()
    return replace(row, answer=f" {row.answer}") if together else row


def _rows(source: Benchmark, config: str, split: str, kind: Kind = "completion") -> tuple[Row, ...]:
    """The rows of a split."""
    records = source.records(config, split)
    return make_rows(records, Columns(completion="gt"), kind, settable=False).rows
