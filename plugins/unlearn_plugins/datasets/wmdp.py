"""WMDP: texts on hazardous biology and cybersecurity, and what to keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from unlearn_cli.api.data import Bundle, DataContext, Location, Row
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import Record, is_hub_id, read, read_hub
from unlearn_plugins.datasets._rows import Columns, make_rows

GATED = "cais/wmdp-bio-forget-corpus"
Corpus = tuple[str, str | None, str]
"""Path or hub id, config, split."""


@dataclass(frozen=True)
class WMDP:
    """WMDP: forget hazardous texts, keep others (Li et al., 2024).

    arXiv:2403.03218. Texts to forget are the corpora of the domains; to keep, general text, as the
    paper does, or the benign corpora of the same domains. What the model knows is asked by the
    evaluator `wmdp`. A row's id is its domain and its index there.

    The corpus to forget of biology is handed out on request only (hub id
    `cais/wmdp-bio-forget-corpus`): ask there, or give your copy with `bio_forget`.

    Differences from the official code: (1) each line of the corpora is parsed as JSON; there some
    are read as raw lines. (2) Documents are cut into sequences of `max_length` and none is
    truncated.
    """

    path: Location = "cais/wmdp-corpora"
    """Hub id, or a folder with a file for each corpus, such as `cyber-forget-corpus.jsonl`."""
    domains: Annotated[tuple[Literal["bio", "cyber"], ...], MinLen(1)] = ("bio", "cyber")
    """What to forget."""
    bio_forget: Location = GATED
    """Hub id or file of the corpus of biology."""
    retain: Literal["wikitext", "corpora"] = "wikitext"
    """Keep general text (`Salesforce/wikitext`, wikitext-2-raw-v1, split test), or the benign
    corpora of the domains."""
    shortest: Annotated[int, Ge(0)] = 50
    """Documents with no more characters are left out."""

    def load(self, context: DataContext) -> Bundle:
        """Read the corpora.

        Raises:
            DataError: a corpus is missing, gated, or has no document that is long enough.
        """
        forget = [row for domain in self.domains for row in self._rows(context, domain, "forget")]
        if self.retain == "wikitext":
            kept = self._long(self._wikitext(context), "wikitext")
        else:
            kept = [row for name in self.domains for row in self._rows(context, name, "retain")]
        return Bundle(forget=tuple(forget), retain=tuple(kept), columns={"path": self.path})

    def _rows(self, context: DataContext, domain: str, part: str) -> list[Row]:
        if (domain, part) == ("bio", "forget"):
            return self._long(_records(self.bio_forget, None, context.base), domain)
        corpus = f"{domain}-{part}-corpus"
        return self._long(_records(self.path, corpus, context.base), domain)

    def _wikitext(self, context: DataContext) -> Sequence[Record]:
        folder = context.base / Path(self.path).expanduser()
        if folder.is_dir():
            return _records(self.path, "wikitext", context.base)
        return read_hub("Salesforce/wikitext", "wikitext-2-raw-v1", "test")

    def _long(self, records: Iterable[Record], name: str) -> list[Row]:
        """The documents that are long enough; ids are those of all."""
        kept = [
            (number, record)
            for number, record in enumerate(records)
            if len(str(record.values.get("text") or "").strip()) > self.shortest
        ]
        if not kept:
            what = f"no document has more than {self.shortest} characters"
            raise DataError(what, where=name, hint="lower [data].shortest")
        rows = make_rows([record for _, record in kept], Columns(), "text", settable=False).rows
        pairs = zip(kept, rows, strict=True)
        return [replace(row, id=f"{name}-{number}") for (number, _), row in pairs]


def _records(path: str, corpus: str | None, base: Path) -> Sequence[Record]:
    place = (base / Path(path).expanduser()).absolute()
    if place.is_file():
        return read(place)
    if place.is_dir():
        file = place / f"{corpus or 'bio-forget-corpus'}.jsonl"
        if not file.is_file():
            there = ", ".join(sorted(found.stem for found in place.glob("*.jsonl")))
            raise DataError("no such corpus", where=str(file), hint=f"there is {there or 'none'}")
        return read(file)
    if not is_hub_id(path):
        raise DataError("no such file or folder", where=str(place), hint="or give a hub id")
    try:
        return read_hub(path, corpus)
    except DataError as error:
        if path != GATED:
            raise
        hint = f"ask for access at the hub ({GATED}), set [data].bio_forget to your copy, or forget"
        raise DataError(error.what, where=error.where, hint=f'{hint} ["cyber"] alone') from error
