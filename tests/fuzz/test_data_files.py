"""Rows of damaged files are the rows that stand there, or are refused with one line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from unlearn_plugins.datasets.files import Files

from tests.fuzz.conftest import Tries
from tests.fuzz.mutate import damaged, distorted
from unlearn_cli.api import DataContext
from unlearn_cli.engine.data import check_overlap
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.models import load_tokenizer
from unlearn_cli.engine.rows import fingerprint
from unlearn_cli.engine.tokens import encode_split
from unlearn_cli.errors import UnlearnError
from unlearn_cli.spec.tables import ModelTable, TemplateTable

QA: list[dict[str, Any]] = [
    {"id": 1, "question": "Who baked it?", "answer": ["Mara did.", "Mara"], "alternate": "No."},
    {"id": "b", "question": "Wo?", "answer": ["Zoë", "x"], "perturbed_answer": ["a", "b"]},
    {"question": "When was it?", "answer": ["In 1979."], "paraphrased_answer": "Then."},
]
TURNS = [("system", "Be brief."), ("user", "Who?"), ("assistant", "Mara.")]
CHAT = [{"messages": [{"role": role, "content": text} for role, text in TURNS]}] * 2
DONE = [{"prompt": f"Once {k}", "completion": f" there was {k}."} for k in range(3)]
TEXT = [{"text": f"A text about {k}."} for k in range(3)]
SPLITS = [QA, CHAT, DONE, TEXT]


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    to = io.StringIO()
    plain = [{k: v if isinstance(v, str) else str(v) for k, v in row.items()} for row in rows]
    writer = csv.DictWriter(to, ["question", "answer"], delimiter=delimiter, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(plain)
    return to.getvalue().encode()


def columns(rows: list[dict[str, Any]]) -> bytes:
    to = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), to)
    return to.getvalue()


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


NO_ID = [{k: v for k, v in row.items() if k != "id"} for row in QA]
FORMS: dict[str, list[bytes]] = {
    ".jsonl": [lines(rows) for rows in SPLITS],
    ".json": [json.dumps(rows, indent=1).encode() for rows in SPLITS]
    + [json.dumps({key: [row[key] for row in DONE] for key in DONE[0]}).encode(), b'["a", "b"]'],
    ".csv": [table(QA)],
    ".tsv": [table(QA, "\t")],
    ".parquet": [columns(rows) for rows in (NO_ID, CHAT, DONE)],
    ".txt": [b"One.\n\nTwo.\n"],
}
Load = Callable[[str, bytes], None]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    words = [str(value) for rows in SPLITS for row in rows for value in row.values()]
    tokenizer = load_tokenizer(ModelTable(), "builtin:tiny", words)
    return Encoder(tokenizer, TemplateTable(), 64)


def texts(suffix: str, data: bytes) -> Iterator[Any]:
    """The records of a file, read another way; of JSON and tables alone."""
    if suffix == ".jsonl":
        yield from (json.loads(s) for s in data.decode("utf-8-sig").split("\n") if s.strip())
    elif suffix in (".csv", ".tsv"):
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        yield from csv.DictReader(text, delimiter="," if suffix == ".csv" else "\t", strict=True)


def assert_located(error: UnlearnError, folder: Path) -> None:
    """It names the file, or the split of the row; and is no bug's exit code."""
    assert str(folder) in error.line() or error.where.startswith("forget"), error.line()
    assert error.exit_code in (1, 2)


@pytest.fixture
def load(tmp_path: Path, encoder: Encoder, in_time: Callable[[], None]) -> Load:
    """Read and encode a file, as a run does; what comes out is held against what stands there."""

    def load(suffix: str, data: bytes) -> None:
        in_time()
        file = tmp_path / f"rows{suffix}"
        file.write_bytes(data)
        try:
            rows = Files(forget=file.name).load(DataContext(0, tmp_path)).forget
            check_overlap(Files(forget=file.name).load(DataContext(0, tmp_path)), "warn")
            split = encode_split(encoder, rows, "forget")
        except UnlearnError as error:
            assert_located(error, tmp_path)
            return
        assert len(fingerprint(rows)) == 64
        assert len(split.rows) == len(rows) > 0
        assert {*split.row.tolist()} == {*range(len(rows))}
        assert (split.items.start < split.items.end).all()
        expected = list(texts(suffix, data))
        assert not expected or len(expected) == len(rows)
        for row, record in zip(rows, expected, strict=False):
            if row.kind == "chat" and not row.messages[:-1] and "answer" in record:
                first = record["answer"]
                assert row.answer == (first[0] if isinstance(first, list) else first)
                assert row.messages[-1].content == record["question"]

    return load


@pytest.mark.parametrize("suffix", FORMS)
def test_damaged_files(suffix: str, load: Load, tries: Tries) -> None:
    """Every format with rows of every kind, bytes and lines damaged."""

    @tries(10)
    @given(data=damaged(FORMS[suffix]))
    def property_(data: bytes) -> None:
        load(suffix, data)

    property_()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_distorted_values(suffix: str, load: Load, tries: Tries) -> None:
    """Whole files with values of other types, missing, or odd."""

    def write(rows: Any) -> bytes:
        if suffix == ".json":
            return json.dumps(rows).encode()
        if suffix == ".jsonl":
            return lines(rows if isinstance(rows, list) else [rows])
        try:
            return columns(rows)
        except Exception:  # noqa: BLE001 - what Arrow cannot hold is in no parquet file
            return b""

    @tries(10)
    @given(data=st.builds(write, distorted(SPLITS)))
    def property_(data: bytes) -> None:
        load(suffix, data)

    property_()


FOUND = {
    "half a character": (".jsonl", b'{"question": "a", "answer": "b\\ud800"}\n'),
    "half a character in an id": (".jsonl", b'{"id": "\\udc00", "question": "a", "answer": "b"}\n'),
    "half a character in a turn": (
        ".jsonl",
        lines(CHAT).replace(b"Mara.", b"\\ud83d"),
    ),
    "two columns of one name": (".csv", b"question,answer,answer\na,b,c\n"),
    "brackets within each other": (".json", b"[" * 5000),
    "a number of 5000 digits": (".jsonl", b'{"id": ' + b"9" * 5000 + b"}\n"),
    "a null character": (".csv", b"question,answer\na\x00b,c\n"),
}
"""What was found so, or might have been, and is mended."""


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found(case: str, load: Load) -> None:
    """Each once was a traceback, or gave rows that do not stand there."""
    load(*FOUND[case])
