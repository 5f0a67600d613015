"""Your own data: local files or hub data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from unlearn_cli.api.data import Bundle, DataContext, Location, Reading, Split
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import HubRecords, Records, is_hub_id, known, open_hub
from unlearn_plugins.datasets._rows import Columns, make_rows

HUB_KEYS = ("path", "config", "split", "revision")
Source: TypeAlias = "Records | HubRecords"


@dataclass(frozen=True)
class Files:
    """Your own rows: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt` files, or hub data.

    A row is a question with its answer (or a list of answers, of which the first is trained on), a
    conversation, a prompt with its completion, or plain text. A `.txt` file is one text.
    """

    forget: Location | dict[str, str]
    """What to forget: a file, a hub id, or { path, config, split, revision }."""
    retain: Location | dict[str, str] | None = None
    """What to keep."""
    holdout: Location | dict[str, str] | None = None
    """Rows like those to forget that no model of the run has seen."""
    kind: Literal["auto", "qa", "messages", "completion", "text"] = "auto"
    """What the rows are; `auto` goes by the columns that are there."""
    question: str = "question"
    """Column of the question."""
    answer: str = "answer"
    """Column of the answer: a string or a list of strings."""
    paraphrase: str = "paraphrased_answer"
    """Column of the answer in other words."""
    perturbed: str = "perturbed_answer"
    """Column of the false answers: a string or a list of strings."""
    paraphrased_question: str = "paraphrased_question"
    """Column of the question in other words."""
    alternate: str = "alternate"
    """Column of the answers to prefer (methods such as dpo): a string or a list of strings."""
    id: str = "id"
    """Column of the row's name; without it a row is named by its index, from 0."""
    prompt: str = "prompt"
    """Column of the prompt."""
    completion: str = "completion"
    """Column of the completion."""
    messages: str = "messages"
    """Column of the conversation: a list of { role, content }, the last from the assistant."""
    text: str = "text"
    """Column of the plain text."""

    def load(self, context: DataContext) -> Bundle:
        """Read the rows; relative paths are resolved against the spec's folder.

        Raises:
            DataError: naming file, line or row, and column.
        """
        columns = Columns(**{part.name: getattr(self, part.name) for part in fields(Columns)})
        sources = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        splits = {
            name: self._split(open_source(source, context.base), columns, context)
            for name, source in sources.items()
            if source is not None
        }
        rows = {name: split.rows for name, split in splits.items()}
        return Bundle(
            forget=rows["forget"],
            retain=rows.get("retain", ()),
            holdout=rows.get("holdout", ()),
            columns={
                f"{name}.{part}": column
                for name, split in splits.items()
                for part, column in split.columns.items()
            },
        )

    def _split(
        self, records: Records | HubRecords, columns: Columns, context: DataContext
    ) -> Split:
        def read() -> Reading:
            found = make_rows(records, columns, self.kind)
            return Reading(found, {"kind": found.kind, **found.columns})

        return context.keep(read, records.files, [asdict(columns), self.kind, records.form])


def open_source(source: str | dict[str, str], base: Path) -> Source:
    """The records of one split, from a file, a folder or the hub."""
    hub = {"path": source} if isinstance(source, str) else source
    _check_keys(hub)
    path = (base / Path(hub["path"]).expanduser()).absolute()
    if path.is_file():
        return Records(path)
    if path.is_dir():
        return open_hub(**{**hub, "path": str(path)})
    if is_hub_id(hub["path"]):
        return open_hub(**hub)
    what = "no such file or folder, and no hub id"
    raise DataError(what, where=str(path), hint=f"give a file ({known()}) or owner/name")


def _check_keys(hub: dict[str, str]) -> None:
    unknown = [key for key in hub if key not in HUB_KEYS]
    if unknown or "path" not in hub:
        what = f"unknown key '{unknown[0]}'" if unknown else "no path"
        raise DataError(f"{what} in {hub}", hint="use path, config, split and revision")
