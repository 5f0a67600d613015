"""Rows and tokens of large files: kept on disk once for their content, as they are in memory."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unlearn_plugins.datasets.files import Files

from tests.engine.test_encode import byte_tokenizer, encoder
from unlearn_cli.api.data import Bundle, DataContext, Message, Reading, Row
from unlearn_cli.engine import rows as module
from unlearn_cli.engine.data import check_overlap
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.rows import KeptRows, fingerprint, keep, keys
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.tokens import EncodedSplit, encode, encode_split
from unlearn_cli.errors import DataError
from unlearn_cli.events import StageFinished, StageProgress, StageStarted
from unlearn_cli.spec.load import load_spec
from unlearn_cli.testing import Recorder

SPEC = """
name = "x"
[model]
path = "nowhere"
[data]
forget = "rows.jsonl"
[method]
name = "npo"
retain = "none"
"""
COUNT, BATCH = 25, 4
FULL = Row(
    "füll",
    "Ann\ud800",  # half a surrogate pair, as JSON may hold it
    messages=(Message("system", "Be brief."), Message("user", "Who?")),
    answers=("Ann\ud800", "Bo"),
    alternates=("Nobody.",),
    paraphrase="It is Ann.",
    perturbed=("Cy", "Di"),
    paraphrased_question="Whom?",
)


class Place:
    """A folder with a cache, in which each file counts as large and rows come four at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recorder = folder, Recorder()
        spec = folder / "spec.toml"
        spec.write_text(SPEC, encoding="utf-8")
        (folder / "rows.jsonl").touch()
        self.session = Session(load_spec(str(spec)), self.recorder)

    def write(self, *records: dict[str, Any], name: str = "rows.jsonl") -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (self.folder / name).write_text(lines, encoding="utf-8")

    def load(self, **options: Any) -> Bundle:
        context = DataContext(0, self.folder, partial(keep, self.session, "files 1"))
        return Files(forget="rows.jsonl", **options).load(context)

    def keep(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows, kept under a name of their own."""
        file = self.folder / f"{fingerprint(rows)}.txt"
        file.touch()
        return keep(self.session, "files 1", lambda: Reading(rows), [file], file.name).rows

    def encode(self, encoder: Encoder, rows: Sequence[Row]) -> EncodedSplit:
        return encode(self.session, encoder, rows, "forget")

    @property
    def stages(self) -> list[str]:
        return [stage.stage for stage in self.recorder.of(StageStarted)]

    def entries(self, kind: str) -> list[Path]:
        return [path for path in (self.folder / "cache" / kind).iterdir() if path.is_dir()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "BATCH", BATCH * module.ROW)
    return Place(tmp_path)


def qa(count: int = COUNT, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"Who is {k}?", "answer": f"Ann {k}", **more} for k in range(count)]


def plain(bundle: Bundle) -> Bundle:
    return replace(bundle, forget=tuple(bundle.forget), retain=tuple(bundle.retain))


def test_kept_rows_are_those_in_memory(place: Place) -> None:
    """Every field, the columns that were found, fingerprint and keys; by index and by slice."""
    place.write(*qa())
    kept = place.load()
    rows = Files(forget="rows.jsonl").load(DataContext(0, place.folder))
    assert isinstance(kept.forget, KeptRows)
    assert plain(kept) == rows
    assert list(kept.forget[-3:]) == [*rows.forget[-3:]]
    assert list(place.keep([FULL, *rows.forget])) == [FULL, *rows.forget]
    assert fingerprint(kept.forget) == fingerprint(rows.forget)
    assert keys(kept.forget).tolist() == keys(rows.forget).tolist()


def test_small_files_stay_in_memory_and_leave_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte less than what is large: a tuple, and no file in the cache."""
    place.write(*qa())
    size = (place.folder / "rows.jsonl").stat().st_size
    monkeypatch.setattr(module, "LARGE", size + 1)
    rows = place.load().forget
    assert isinstance(rows, tuple)
    assert len(place.encode(encoder(byte_tokenizer()), rows).items) == len(rows)
    assert not (place.folder / "cache").exists()
    monkeypatch.setattr(module, "LARGE", size)
    assert isinstance(place.load().forget, KeptRows)


def test_the_second_start_reads_and_tokenises_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same content, under another name: no row is made, the tokenizer is not called, no stage."""
    place.write(*qa())
    own = encoder(byte_tokenizer())
    first = place.encode(own, place.load().forget)
    assert place.stages == ["read", "tokenize"]
    (place.folder / "rows.jsonl").rename(place.folder / "moved.jsonl")
    monkeypatch.setattr("unlearn_plugins.datasets.files.make_rows", None)
    monkeypatch.setattr(module, "_row", None)
    monkeypatch.setattr(Encoder, "encode_many", None)
    context = DataContext(0, place.folder, partial(keep, place.session, "files 1"))
    rows = Files(forget="moved.jsonl").load(context).forget
    second = place.encode(own, rows)
    assert place.stages == ["read", "tokenize"]
    assert_same(second, first)
    assert check_overlap(Bundle(rows, rows[:0]), "warn") == []


def assert_same(found: EncodedSplit, expected: EncodedSplit) -> None:
    assert len(found.items) == len(expected.items)
    for one, other in zip(found.items, expected.items, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert (one.start, one.end) == (other.start, other.end)
    assert found.row.tolist() == expected.row.tolist()


def test_kept_tokens_are_those_in_memory(place: Place) -> None:
    """Questions, and texts in several chunks, over the borders of the batches; mapped from disk."""
    texts = [Row(f"t{k}", "abcdefghij"[: 3 + k], kind="text") for k in range(7)]
    rows = [*texts, *(Row.qa(str(k), "?", "ab"[: 1 + k % 2]) for k in range(9)), *texts]
    own = encoder(byte_tokenizer(), max_length=8, prompt="{question}")
    kept = place.encode(own, place.keep(rows))
    assert_same(kept, encode_split(own, rows, "forget"))
    assert isinstance(kept.items.input_ids.base, np.memmap)
    whole = kept.items.whole()
    assert [(item.start, item.end) for item in whole] == [
        (1, len(item.input_ids)) for item in kept.items
    ]


@pytest.mark.parametrize("change", ["content", "column", "kind"])
def test_rows_are_read_again_where_anything_that_decides_them_changed(
    place: Place, change: str
) -> None:
    """Another byte, another column or another kind: another entry, with what is there now."""
    place.write(*qa(text="a", reply="b"))
    assert place.load().forget[0].answer == "Ann 0"
    if change == "content":
        place.write(*qa(text="a", reply="b")[1:])
    options = {"content": {}, "column": {"answer": "reply"}, "kind": {"kind": "text"}}[change]
    expected = {"content": "Ann 1", "column": "b", "kind": "a"}[change]
    assert place.load(**options).forget[0].answer == expected
    assert len(place.entries("rows")) == 2


def test_tokens_are_made_again_for_another_encoder(place: Place) -> None:
    """`max_length` and the template decide tokens."""
    rows = place.keep([Row("0", "abcdefghij", kind="text")])
    lengths = [
        len(place.encode(encoder(byte_tokenizer(), max_length=n), rows).items) for n in (4, 5)
    ]
    assert lengths == [3, 2]
    assert len(place.entries("tokens")) == 2


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "index"])
@pytest.mark.parametrize(("kind", "file"), [("rows", "rows"), ("tokens", "input_ids")])
def test_a_damaged_entry_is_made_again(place: Place, kind: str, file: str, damage: str) -> None:
    """Whatever happened to a file of it: what is used is what was read."""
    place.write(*qa())
    own = encoder(byte_tokenizer())
    expected = plain(place.load())
    first = encode_split(own, expected.forget, "forget")
    assert_same(place.encode(own, place.load().forget), first)
    (entry,) = place.entries(kind)
    hurt = entry / ("index.json" if damage == "index" else file)
    content = hurt.read_bytes()
    if damage == "gone":
        hurt.unlink()
    else:
        end = content[-2:-1] if damage == "cut" else bytes([content[-1] ^ 1])
        hurt.write_bytes(content[:-2] + end)
    bundle = place.load()
    assert plain(bundle) == expected
    assert_same(place.encode(own, bundle.forget), first)
    assert place.stages.count("read" if kind == "rows" else "tokenize") == 2
    assert (entry / file).is_file()


def test_what_a_killed_start_left_is_of_no_account(place: Place) -> None:
    """Half an entry has another name, and is thrown away by the next start."""
    place.write(*qa())
    place.load()
    (entry,) = place.entries("rows")
    left = entry.with_name(f"{entry.name}.partial")
    entry.rename(left)
    (left / "index.json").write_text("{}")
    assert list(place.load().forget) == [*plain(place.load()).forget]
    assert place.entries("rows") == [entry]


def test_no_more_than_two_batches_of_rows_are_in_memory(place: Place) -> None:
    """While rows are read, written, read back and encoded: whatever their number."""
    alive: set[int] = set()
    most = 0

    def watched(row: Row) -> Row:
        nonlocal most
        alive.add(id(row))
        weakref.finalize(row, alive.discard, id(row))
        most = max(most, len(alive))
        return row

    def read() -> Iterator[Row]:
        for k in range(50 * BATCH):
            yield watched(Row.qa(str(k), f"Who is {k}?", "Ann"))

    rows = keep(place.session, "files 1", lambda: Reading(read()), [], "many").rows
    assert len(rows) == 50 * BATCH
    assert 1 < most <= 2 * BATCH
    most, make = 0, module._row
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_row", lambda line: watched(make(line)))
        place.encode(encoder(byte_tokenizer()), rows)
    assert 1 < most <= 2 * BATCH


def test_long_texts_come_fewer_at_a_time() -> None:
    """A batch ends with the row that fills it: what is in memory goes by text, not by rows."""
    long, short = Row("l", "x" * module.BATCH, kind="text"), Row("s", "x" * 56, kind="text")
    sizes = [len(batch) for batch in module.batches([long, long, *[short] * 3000])]
    assert sizes == [1, 1, 1024, 1024, 952]  # 200 + 56 characters go 1024 times into 2**18


def test_rows_without_an_answer_token_are_counted_over_all_batches(place: Place) -> None:
    """The first ten are named, all are counted; the next start says it again."""
    rows = place.keep([Row(str(k), "a" if k % 2 else "ab", kind="text") for k in range(COUNT)])
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            place.encode(encoder(byte_tokenizer()), rows)
        assert caught.value.line().startswith("forget: 12 rows (1, 3, 5, 7, 9, 11, 13, 15, 17, 19,")
    assert [path.name for path in place.entries("tokens") if "partial" not in path.name] == []


def test_a_bad_row_names_file_line_and_column(place: Place) -> None:
    """As for small files; nothing is kept."""
    place.write(*qa(), {"question": "Who?", "answer": 7})
    with pytest.raises(DataError, match=r"rows\.jsonl:26: column 'answer' is of type int"):
        place.load()
    place.write(*qa(id="a")[:1], *qa(), *qa(id="a")[:1])
    with pytest.raises(DataError, match=r":27: id 'a' is taken by \S+rows\.jsonl:1;"):
        place.load()
    assert [path.name for path in place.entries("rows") if "partial" not in path.name] == []


def test_overlaps_and_duplicates_of_kept_rows_are_found(place: Place) -> None:
    """By the keys on disk: the same words as for rows in memory."""
    place.write(*qa(), qa()[3])
    place.write(qa()[20], {"question": "who  IS 21?", "answer": "ann 21"}, name="retain.jsonl")
    bundle = place.load(retain="retain.jsonl")
    assert check_overlap(bundle, "warn") == [
        "2 rows (20, 21) of forget also in retain",
        "1 row (25) of forget repeating an earlier one",
    ]
    assert check_overlap(plain(bundle), "warn") == check_overlap(bundle, "warn")


def test_a_log_does_not_grow_with_the_rows(place: Place) -> None:
    """A stage of ten million rows reports no more than a thousand times, its end included."""
    with place.session.stage("s", "S", 10_000_000, "rows") as progress:
        for done in range(5000, 10_000_001, 5000):
            progress(done)
    *reports, last = place.recorder.events[1:]
    assert isinstance(last, StageFinished)
    assert len(reports) <= 1000
    assert reports[-1].done == 10_000_000  # type: ignore[attr-defined]


def test_another_reader_of_the_same_file_reads_it_itself(place: Place) -> None:
    """Rows that one version of a data set made are not served to the next."""
    file = place.folder / "same.txt"
    file.touch()

    def answer(reader: str) -> str | None:
        split = keep(place.session, reader, lambda: Reading([Row.qa("0", "?", reader)]), [file], [])
        return split.rows[0].answer

    assert [answer("files 1"), answer("files 2")] == ["files 1", "files 2"]


def test_reports_of_progress_do_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Of unknown length, each a thousandth further than the last: a thousand reports up to row
    1,000, and then ln(rows / 1,000) / ln(1.001) of them, 6,911 for a million rows."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC, encoding="utf-8")
    told = Recorder()
    with Session(load_spec(str(spec)), told).stage("read", "Read") as progress:
        for row in range(1, 1_000_001):
            progress(row)
    assert 6_000 < len(told.of(StageProgress)) < 8_000
