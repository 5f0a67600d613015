"""Records to rows: which columns mean what, and every complaint about a value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from itertools import islice
from typing import Any, Literal, NoReturn

from unlearn_cli.api.data import Message, Row
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import Record

Kind = Literal["qa", "messages", "completion", "text"]
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "qa": ("question", "answer"),
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
OPTIONAL: Mapping[Kind, tuple[str, ...]] = {
    "qa": ("id", "alternate", "paraphrase", "perturbed", "paraphrased_question"),
    "messages": ("id", "alternate", "paraphrase", "perturbed"),
    "completion": ("id", "alternate", "paraphrase", "perturbed"),
    "text": ("id",),
}


@dataclass(frozen=True)
class Columns:
    """The column of each part of a row; each field is also the option that sets it."""

    question: str = "question"
    answer: str = "answer"
    paraphrase: str = "paraphrased_answer"
    perturbed: str = "perturbed_answer"
    paraphrased_question: str = "paraphrased_question"
    alternate: str = "alternate"
    id: str = "id"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    text: str = "text"

    def of(self, part: str) -> str:
        """The column of a part."""
        return str(asdict(self)[part])

    @property
    def chosen(self) -> frozenset[str]:
        """The parts whose column is not the default."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True)
class Rows(Iterable[Row]):
    """Rows, made anew whenever they are gone through; `columns` tells part -> column."""

    records: Iterable[Record]
    parts: Columns
    columns: Mapping[str, str]
    kind: Kind

    def __iter__(self) -> Iterator[Row]:
        make, ids = MAKERS[self.kind], _Ids()
        for index, record in enumerate(self.records):
            row = make(self._cells(record), str(index))
            ids.add(row.id)
            yield row
        if (again := ids.first_repeated()) is not None:
            self._refuse(again)

    def _cells(self, record: Record) -> _Cells:
        return _Cells(record, self.columns, self.parts)

    def _refuse(self, again: int) -> NoReturn:
        """Say of which row an id is the second."""
        named = [
            (self._cells(record).name(str(index)), record.where)
            for index, record in enumerate(islice(self.records, again + 1))
        ]
        name, where = named.pop()
        what = f"id '{name}' is taken by {dict(reversed(named))[name]}"
        raise DataError(what, where=where, hint="give every row its own id")

    @property
    def rows(self) -> tuple[Row, ...]:
        """All of them."""
        return tuple(self)


def make_rows(
    records: Iterable[Record],
    columns: Columns,
    kind: Literal["auto"] | Kind = "auto",
    *,
    settable: bool = True,
) -> Rows:
    """Rows from records (at least one), in their order; a row without an id gets its index.

    Args:
        records: as read; they are gone through more than once.
        columns: what each part is called.
        kind: of the rows.
        settable: whether the data set has options for the columns, which complaints then name.

    Raises:
        DataError: a column is missing; also, when the rows are gone through, a value is empty or
            of another type, an id comes twice; names the file, the line or row, and the column.
    """
    found = list(dict.fromkeys(name for record in records for name in record.values))
    first = next(iter(records))
    chosen = _detect(first, found, columns) if kind == "auto" else kind
    parts = _present(chosen, found, columns, first, settable=settable)
    return Rows(records, columns, parts, chosen)


def _detect(first: Record, found: Sequence[str], columns: Columns) -> Kind:
    for kind, parts in REQUIRED.items():
        if all(columns.of(part) in found for part in parts):
            return kind
    # A kind is meant where one of its columns is there, or was set: name what that kind lacks.
    for kind, parts in REQUIRED.items():
        if any(columns.of(part) in found or part in columns.chosen for part in parts):
            return kind
    kinds = "; ".join(" and ".join(map(columns.of, parts)) for parts in REQUIRED.values())
    raise DataError(
        f"no known columns: found {_quoted(found)}, looked for {kinds}",
        where=first.where,
        hint='name the columns in [data], e.g. question = "..." and answer = "..."',
    )


def _present(
    kind: Kind, found: Sequence[str], columns: Columns, first: Record, *, settable: bool
) -> dict[str, str]:
    """Part -> column, of the parts that are there; complains of one that should be."""
    wanted = {part: columns.of(part) for part in (*REQUIRED[kind], *OPTIONAL[kind])}
    for part, column in wanted.items():
        if column not in found and (part in REQUIRED[kind] or part in columns.chosen):
            near = difflib.get_close_matches(column, found, n=1)
            guess = f'"{near[0]}"' if near else '"..."'
            raise DataError(
                f"column '{column}' is missing: found {_quoted(found)}",
                where=first.where,
                hint=f"set [data].{part} = {guess}" if settable else "give the benchmark's columns",
            )
    return {part: column for part, column in wanted.items() if column in found}


@dataclass(frozen=True)
class _Cells:
    """The values of one record, by part, checked as they are read."""

    record: Record
    parts: Mapping[str, str]
    columns: Columns

    def error(self, part: str, what: str, hint: str = "") -> DataError:
        column = self.columns.of(part)
        return DataError(f"column '{column}' {what}", where=self.record.where, hint=hint)

    def value(self, part: str) -> Any:
        """The raw value; None where there is none."""
        return self.record.values.get(self.parts.get(part, ""))

    def text(self, part: str) -> str:
        """A required, non-blank string."""
        value = self.value(part)
        if value is None:
            raise self.error(part, "has no value", "give every row one")
        return self._string(part, value)

    def optional(self, part: str) -> str | None:
        """A string, or None where the value is missing."""
        return None if self.value(part) is None else self.text(part)

    def texts(self, part: str, *, required: bool = False) -> tuple[str, ...]:
        """A string or a list of strings, as a tuple; empty only where not required."""
        value = self.value(part)
        if value is None and not required:
            return ()
        if not isinstance(value, list):
            return (self.text(part),)
        if required and not value:
            raise self.error(part, "is an empty list", "give every row at least one")
        return tuple(self._string(part, item) for item in value)

    def name(self, index: str) -> str:
        """The id column as a string; else the row's index."""
        value = self.value("id")
        if value is None:
            return index
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error("id", f"is {_type(value)}", "give a string or a whole number")
        return self.unicode("id", str(value))

    def _string(self, part: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.error(part, f"is {_type(value)}, not a string", "give strings throughout")
        if not value.strip():
            raise self.error(part, "is empty", "drop the row or fill it")
        return self.unicode(part, value)

    def unicode(self, part: str, value: str) -> str:
        """The text; JSON can escape half of a character, which no file and no tokenizer takes."""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise self.error(part, f"has half a character ({half})", "mend the escape") from None
        return value


def _qa(cells: _Cells, index: str) -> Row:
    answers = cells.texts("answer", required=True)
    return Row.qa(
        cells.name(index),
        cells.text("question"),
        answers[0],
        answers=answers if len(answers) > 1 else (),
        paraphrased_question=cells.optional("paraphrased_question"),
        **_extras(cells),
    )


def _completion(cells: _Cells, index: str) -> Row:
    return Row(
        id=cells.name(index),
        kind="completion",
        prompt=cells.text("prompt"),
        answer=cells.text("completion"),
        **_extras(cells),
    )


def _text(cells: _Cells, index: str) -> Row:
    return Row(id=cells.name(index), kind="text", answer=cells.text("text"))


def _messages(cells: _Cells, index: str) -> Row:
    value = cells.value("messages")
    if not isinstance(value, list):
        raise cells.error("messages", f"is {_type(value)}, not a list", MESSAGES_HINT)
    turns = [_message(cells, number, turn) for number, turn in enumerate(value, 1)]
    if not turns or turns[-1].role != "assistant":
        end = f"ends with a message of the {turns[-1].role}" if turns else "is an empty list"
        raise cells.error("messages", end, "end with the assistant's answer: it carries the loss")
    *before, last = turns
    if not any(turn.role == "user" for turn in before):
        raise cells.error("messages", "has no user message before the answer", MESSAGES_HINT)
    return Row(id=cells.name(index), messages=tuple(before), answer=last.content, **_extras(cells))


MESSAGES_HINT = 'give [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


def _message(cells: _Cells, number: int, turn: Any) -> Message:
    match turn:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            if not content.strip():
                raise cells.error("messages", f"has an empty message {number}")
            return Message(role, cells.unicode("messages", content))
        case {"role": str(role), "content": str()}:
            known = "use system, user or assistant"
            raise cells.error(
                "messages", f"has the unknown role '{role}' in message {number}", known
            )
    raise cells.error("messages", f"has no role and content in message {number}", MESSAGES_HINT)


def _extras(cells: _Cells) -> dict[str, Any]:
    return {
        "alternates": cells.texts("alternate"),
        "paraphrase": cells.optional("paraphrase"),
        "perturbed": cells.texts("perturbed"),
    }


MAKERS: Mapping[Kind, Callable[[_Cells, str], Row]] = {
    "qa": _qa,
    "messages": _messages,
    "completion": _completion,
    "text": _text,
}


class _Ids:
    """The ids of rows, as hashes: a million take 16 MB."""

    def __init__(self) -> None:
        self._hashes = bytearray()

    def add(self, name: str) -> None:
        self._hashes += blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def first_repeated(self) -> int | None:
        """The first place whose id stands at an earlier one."""
        import numpy as np

        hashes = np.frombuffer(self._hashes, "S16")
        first = np.unique(hashes, return_index=True)[1]
        later = np.delete(np.arange(len(hashes)), first)
        return int(later[0]) if len(later) else None


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _type(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
