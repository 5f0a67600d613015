"""Bytes to records: local files and hub data, each record with the place it came from."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_cli.errors import DataError


@dataclass(frozen=True)
class Record:
    """One row as it was found."""

    where: str
    """For messages: `people.jsonl:3`, or `people.parquet, row 3`. Lines and rows count from 1."""
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Records(Iterable[Record]):
    """The records of one file, at least one, read anew whenever they are gone through.

    A `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt` file. JSON is a list of objects, a
    list of strings (the column `text`) or an object of columns; a text file is one record, `text`,
    blank lines kept. All but `.json` and `.txt` are read without holding the file in memory.

    Raises:
        DataError: missing, unreadable, not UTF-8, broken at some line, or without a row.
    """

    path: Path

    @property
    def files(self) -> list[Path]:
        """The file."""
        return [self.path]

    @property
    def form(self) -> str:
        """How it is read."""
        return self.path.suffix.lower()

    def __iter__(self) -> Iterator[Record]:
        path, any_yet = self.path, False
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            hint = f"use {known()}"
            raise DataError("this kind of file is not read", where=str(path), hint=hint)
        try:
            for record in reader(path):
                any_yet = True
                yield record
        except FileNotFoundError:
            raise DataError("no such file", where=str(path), hint="check the path") from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
        except UnicodeDecodeError:
            read_text(path)  # says where
            raise
        if not any_yet:
            raise DataError("has no rows", where=str(path), hint="give at least one")


def read(path: Path) -> list[Record]:
    """`Records`, in memory."""
    return list(Records(path))


@dataclass(frozen=True)
class HubRecords(Iterable[Record]):
    """The records of a hub data set, or of a folder that `datasets.load_dataset` can read."""

    name: str
    data: Any
    """`datasets.Dataset`, memory-mapped."""

    def __iter__(self) -> Iterator[Record]:
        for number, row in enumerate(self.data, 1):
            yield Record(f"{self.name}, row {number}", dict(row))

    @property
    def files(self) -> list[Path]:
        """The Arrow files that hold it, perhaps among others."""
        return [Path(file["filename"]) for file in self.data.cache_files]

    @property
    def form(self) -> str:
        """Which part of the files it is."""
        return f"{self.name}, {len(self.data)} rows"


def open_hub(
    path: str, config: str | None = None, split: str = "train", revision: str | None = None
) -> HubRecords:
    """Load a data set from the hub or a folder.

    Honours Hugging Face's environment variables (`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`).

    Raises:
        DataError: no such id, config or split, or no network; names them all.
    """
    import datasets

    name = f"{path} ({', '.join(filter(None, (config, f'split {split}', revision)))})"
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(path, config, split=split, revision=revision)
    except Exception as error:  # hub, network and format errors share no base class
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"cannot be loaded: {reason}", where=name, hint=HUB_HINT) from error
    if not len(found):
        raise DataError("has no rows", where=name, hint="choose another split")
    return HubRecords(name, found)


def read_hub(
    path: str, config: str | None = None, split: str = "train", revision: str | None = None
) -> list[Record]:
    """`open_hub`, in memory."""
    return list(open_hub(path, config, split, revision))


HUB_HINT = (
    "check the id, the config and the split; without network, give a local file or folder, or set "
    "HF_HOME to a cache that holds the data"
)


def is_hub_id(path: str) -> bool:
    """Whether `path` is shaped like `name` or `owner/name`, with no file extension that is read."""
    shaped = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path)
    return shaped is not None and Path(path).suffix.lower() not in READERS


class Benchmark:
    """A public benchmark: on the hub, or a folder with one file for each of its splits."""

    SUFFIXES = (".jsonl", ".json", ".parquet")

    def __init__(self, path: str, base: Path, expected: str) -> None:
        """`expected` says what works, where `path` is neither a folder nor shaped like a hub id."""
        folder = (base / Path(path).expanduser()).absolute()
        self.folder = folder if folder.is_dir() else None
        self.path = path
        if self.folder is None and not is_hub_id(path):
            raise DataError("no such folder", where=str(folder), hint=f"give {expected}")

    @property
    def where(self) -> str:
        """The folder or hub id."""
        return str(self.folder or self.path)

    def records(self, config: str, split: str | None = None) -> list[Record]:
        """The records of a split: `CONFIG/SPLIT.jsonl`, or `CONFIG.jsonl` where a configuration has
        one split only."""
        if self.folder is None:
            return read_hub(self.path, config, split or "train")
        wanted = self.folder / config / split if split else self.folder / config
        found = (wanted.with_name(f"{wanted.name}{suffix}") for suffix in self.SUFFIXES)
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            there = sorted(f.stem for f in wanted.parent.glob("*.*") if f.suffix in self.SUFFIXES)
            hint = f"the folder has {', '.join(there) or 'none'}"
            raise DataError("no such split", where=str(wanted), hint=hint)
        return read(file)


def known() -> str:
    """The file extensions that are read, for messages."""
    return ", ".join(READERS)


def read_text(path: Path) -> str:
    """A text file as UTF-8, without a byte order mark."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"is not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})",
            where=f"{path}:{line}",
            hint="save it as UTF-8",
        ) from None


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield Record(where, _object(_parse(line.rstrip("\n"), path, number), where))


def _json(path: Path) -> Iterator[Record]:
    content = _parse(read_text(path), path)
    if isinstance(content, dict):
        content = _rows_of_columns(content, path)
    if not isinstance(content, list):
        raise DataError(
            f"holds {_kind(content)}",
            where=str(path),
            hint='give a list of objects, or an object of columns: {"question": [...], ...}',
        )
    for number, item in enumerate(content, 1):
        where = f"{path}, row {number}"
        yield Record(where, {"text": item} if isinstance(item, str) else _object(item, where))


def _parse(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_by_name)
    except json.JSONDecodeError as error:
        what = f"broken JSON at column {error.colno}: {error.msg}"
        raise DataError(what, where=f"{path}:{first_line + error.lineno - 1}") from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 5000 brackets
        raise DataError(f"is no data: {error}", where=f"{path}:{first_line}") from None


class _Twice(dict[str, Any]):
    """An object in which a key stands more than once: which is meant?"""

    name: str


def _by_name(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names, found = [name for name, _ in pairs], _Twice(found)
    found.name = next(name for name in names if names.count(name) > 1)
    return found


def _refuse_twice(value: Any, where: str) -> None:
    """Raise DataError where a key stands twice in the value, or anywhere within."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, _Twice):
            raise _twice(item.name, where)
        left.extend(item.values() if isinstance(item, dict) else item)
        left = [item for item in left if isinstance(item, dict | list)]


def _twice(name: str, where: str) -> DataError:
    what = f"column '{name}' is there more than once"
    return DataError(what, where=where, hint="give every column its own name")


def _rows_of_columns(columns: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    if isinstance(columns, _Twice):
        raise _twice(columns.name, str(path))
    for name, values in columns.items():
        if not isinstance(values, list):
            what = f"column '{name}' is {_kind(values)}"
            raise DataError(what, where=str(path), hint="give every column as a list")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"columns differ in length: {counts}", where=str(path))
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"is {_kind(value)}", where=where, hint="give a JSON object for each row")
    _refuse_twice(value, where)
    return value


def _csv(path: Path, delimiter: str = ",") -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    # A reader that is told newline="" keeps line breaks inside quoted fields as they are.
    with path.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            _check_names(header, path)
            for values in lines:
                if values:
                    yield Record(f"{path}:{lines.line_num}", _fields(header, values, path, lines))
        except csv.Error as error:
            where = f"{path}:{lines.line_num}"
            raise DataError(f"broken table: {error}", where=where) from None


def _check_names(names: Sequence[str], path: Path) -> None:
    """Two columns of one name: which is meant?"""
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise _twice(twice[0], str(path))


def _fields(header: Sequence[str], values: Sequence[str], path: Path, lines: Any) -> dict[str, str]:
    if len(values) != len(header):
        raise DataError(
            f"has {len(values)} fields, and the header has {len(header)}",
            where=f"{path}:{lines.line_num}",
            hint="quote fields that hold the delimiter",
        )
    return dict(zip(header, values, strict=True))


def _tsv(path: Path) -> Iterator[Record]:
    return _csv(path, delimiter="\t")


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, path)
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}, row {number}", row)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"is no parquet file: {error}", where=str(path)) from None


def _txt(path: Path) -> Iterator[Record]:
    text = read_text(path)
    if text.strip():
        yield Record(str(path), {"text": text})


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _txt,
}
