"""Own data: every format, every kind of row, and what bad input gets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from unlearn_plugins.datasets import _read
from unlearn_plugins.datasets.files import Files

from unlearn_cli.api import Bundle, DataContext, Dataset, Message, Row
from unlearn_cli.errors import DataError

TWO = [{"question": "Who?", "answer": "Zoë"}, {"question": "Where?", "answer": "a\u2028b"}]
TWO_ROWS = (Row.qa("0", "Who?", "Zoë"), Row.qa("1", "Where?", "a\u2028b"))


def load(folder: Path, content: str | bytes, name: str = "rows.jsonl", **options: Any) -> Bundle:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return Files(forget=name, **options).load(DataContext(seed=0, base=folder))


def raw(row: Any) -> str:
    """JSON with letters beyond ASCII as they are."""
    return json.dumps(row, ensure_ascii=False)


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_it_is_a_data_set() -> None:
    """The class keeps the contract that the engine calls."""
    assert isinstance(Files(forget="x.jsonl"), Dataset)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\ufeff" + raw(TWO[0]) + "\r\n\n" + raw(TWO[1])),
        ("a.json", json.dumps(TWO, indent=1)),
        ("a.json", json.dumps({key: [row[key] for row in TWO] for key in TWO[0]})),
        ("a.csv", 'question,answer\r\nWho?,Zoë\r\n\r\n"Where?","a\u2028b"\r\n'),
        ("a.tsv", "answer\tquestion\nZoë\tWho?\na\u2028b\tWhere?\n"),
    ],
)  # fmt: skip
def test_formats_agree(name: str, content: str, tmp_path: Path) -> None:
    """The same two rows from JSON lines (byte order mark, CRLF, blank line), a list, columns, CSV
    and TSV; a Unicode line separator within a value cuts nothing."""
    assert load(tmp_path, content, name).forget == TWO_ROWS


def test_parquet(tmp_path: Path) -> None:
    """Parquet gives the same rows, lists included."""
    import pyarrow
    from pyarrow import parquet

    rows = [{**TWO[0], "alternate": ["x", "y"]}, {**TWO[1], "alternate": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = Files(forget="a.parquet").load(DataContext(0, tmp_path)).forget
    assert found == (Row.qa("0", "Who?", "Zoë", alternates=("x", "y")), TWO_ROWS[1])


def test_a_text_file_is_one_text(tmp_path: Path) -> None:
    """Blank lines and the end of the file are kept as they are."""
    bundle = load(tmp_path, "One.\n\nTwo.\n", "book.txt")
    assert bundle.forget == (Row("0", "One.\n\nTwo.\n", kind="text"),)


def test_csv_keeps_line_breaks_within_quotes(tmp_path: Path) -> None:
    """A quoted field may go over lines, and may be longer than the csv module's own limit."""
    long = "x" * 200_000
    bundle = load(tmp_path, f'question,answer\nWho?,"a\nb{long}"\n', "a.csv")
    assert bundle.forget[0].answer == f"a\nb{long}"


def test_all_parts_of_a_question(tmp_path: Path) -> None:
    """Several answers, false answers, paraphrases, alternates and an id, by the default columns."""
    row = {
        "id": 17,
        "question": "q",
        "answer": ["a", "b"],
        "paraphrased_answer": "p",
        "perturbed_answer": ["x", "y"],
        "paraphrased_question": "r",
        "alternate": "no",
    }
    assert load(tmp_path, lines(row)).forget == (
        Row.qa(
            "17",
            "q",
            "a",
            answers=("a", "b"),
            alternates=("no",),
            paraphrase="p",
            perturbed=("x", "y"),
            paraphrased_question="r",
        ),
    )


def test_conversations_prompts_and_texts(tmp_path: Path) -> None:
    """The kind goes by the columns; a conversation's last turn is the answer."""
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    before = tuple(Message(*turn) for turn in turns[:-1])  # type: ignore[arg-type]
    assert load(tmp_path, lines(talk)).forget == (Row("0", "b", messages=before),)
    assert load(tmp_path, lines({"prompt": "p", "completion": "c"})).forget == (
        Row("0", "c", kind="completion", prompt="p"),
    )
    assert load(tmp_path, lines({"text": "t"})).forget == (Row("0", "t", kind="text"),)


def test_columns_can_be_set_and_are_told(tmp_path: Path) -> None:
    """What was found where, for each split; the splits may differ in kind."""
    (tmp_path / "keep.txt").write_text("kept")
    row = {"q": "Who?", "a": "Ann", "wrong": "Bob"}
    options = {"question": "q", "answer": "a", "perturbed": "wrong", "retain": "keep.txt"}
    bundle = load(tmp_path, lines(row), **options)
    assert bundle.forget == (Row.qa("0", "Who?", "Ann", perturbed=("Bob",)),)
    assert bundle.retain == (Row("0", "kept", kind="text"),)
    assert bundle.columns == {
        "forget.kind": "qa",
        "forget.question": "q",
        "forget.answer": "a",
        "forget.perturbed": "wrong",
        "retain.kind": "text",
        "retain.text": "text",
    }


def test_kind_decides_where_columns_allow_several(tmp_path: Path) -> None:
    """Rows with both a text and a question: question and answer by default, text when asked."""
    row = {"question": "q", "answer": "a", "text": "t"}
    assert load(tmp_path, lines(row)).forget[0].kind == "chat"
    assert load(tmp_path, lines(row), kind="text").forget == (Row("0", "t", kind="text"),)


def test_a_list_of_strings_is_texts(tmp_path: Path) -> None:
    """JSON as MUSE publishes its excerpts: no objects, one text each."""
    (tmp_path / "rows.json").write_text('["first", "second"]', encoding="utf-8")
    found = Files(forget="rows.json").load(DataContext(seed=0, base=tmp_path)).forget
    assert found == (Row("0", "first", kind="text"), Row("1", "second", kind="text"))


GOOD = {"question": "q", "answer": "a"}
USER = {"role": "user", "content": "u"}
BAD: dict[str, tuple[str | bytes, str]] = {
    "broken JSON": (lines(GOOD) + '{"question": }', "rows.jsonl:2: broken JSON at column 14"),
    "no object": (lines(GOOD, [1]), "rows.jsonl:2: is a list; give a JSON object for each row"),
    "not UTF-8": (lines(GOOD).encode() + b'{"question": "\xe9"}', "rows.jsonl:2: is not UTF-8"),
    "zero rows": ("\n \n", "rows.jsonl: has no rows"),
    "no known columns": (lines({"a": 1, "b": 2}), "rows.jsonl:1: no known columns: found 'a', 'b'"),
    "missing column": (
        lines({"question": "q", "answr": "a"}),
        "rows.jsonl:1: column 'answer' is missing: found 'question', 'answr'; "
        'set [data].answer = "answr"',
    ),
    "row without value": (lines(GOOD, {"question": "q"}), "rows.jsonl:2: column 'answer' has no"),
    "empty answer": (lines(GOOD, {**GOOD, "answer": " "}), "rows.jsonl:2: column 'answer' is emp"),
    "key twice": (
        lines(GOOD) + '{"question": "q", "answer": "right", "answer": "wrong"}',
        "rows.jsonl:2: column 'answer' is there more than once; give every column its own name",
    ),
    "key twice within": (
        '{"messages": [{"role": "user", "role": "system", "content": "u"}]}',
        "rows.jsonl:1: column 'role' is there more than once",
    ),
    "no answers": (lines({**GOOD, "answer": []}), "rows.jsonl:1: column 'answer' is an empty list"),
    "mixed types": (lines(GOOD, {**GOOD, "answer": 5}), "jsonl:2: column 'answer' is of type int"),
    "type in a list": (lines({**GOOD, "answer": ["a", 5]}), "column 'answer' is of type int"),
    "id twice": (lines({**GOOD, "id": 1}, {**GOOD, "id": "1"}), "rows.jsonl:2: id '1' is taken"),
    "id of no type": (lines({**GOOD, "id": 1.5}), "column 'id' is of type float"),
    "ends with the user": (
        lines({"messages": [USER]}),
        "rows.jsonl:1: column 'messages' ends with a message of the user; end with the assistant",
    ),
    "assistant alone": (
        lines({"messages": [{"role": "assistant", "content": "u"}]}),
        "column 'messages' has no user message before the answer",
    ),
    "no messages": (lines({"messages": []}), "column 'messages' is an empty list"),
    "messages as text": (lines({"messages": "hi"}), "column 'messages' is of type str, not a list"),
    "unknown role": (
        lines({"messages": [{"role": "bot", "content": "u"}]}),
        "column 'messages' has the unknown role 'bot' in message 1; use system, user or assistant",
    ),
    "empty message": (
        lines({"messages": [USER, {"role": "assistant", "content": ""}]}),
        "column 'messages' has an empty message 2",
    ),
    "no content": (lines({"messages": [{"role": "user"}]}), "has no role and content in message 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(case: str, tmp_path: Path) -> None:
    """Each complaint names the file, the line and the column."""
    content, complaint = BAD[case]
    with pytest.raises(DataError, match=re.escape(complaint)) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "rows.jsonl") in caught.value.line()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", '[{"question": "q",\n "answer" "a"}]', "a.json:2: broken JSON at column 11"),
        ("a.json", "3", "a.json: holds a number"),
        ("a.json", "[{}, null]", "a.json, row 2: is null"),
        ("a.json", '{"question": ["q"], "answer": []}', "columns differ in length: question 1, a"),
        (
            "a.json",
            '[{"question": "q", "answer": "a"},\n {"question": "q", "question": "p"}]',
            "a.json, row 2: column 'question' is there more than once",
        ),
        ("a.json", '{"question": [1], "question": [2]}', "a.json: column 'question' is there more"),
        ("a.json", '{"question": "q"}', "a.json: column 'question' is a string"),
        ("a.csv", "question,answer\nq,a\nq,a,b\n", "a.csv:3: has 3 fields, and the header has 2"),
        ("a.csv", 'question,answer\nq,"a\n', "a.csv:2: broken table"),
        ("a.csv", "question,answer\n", "a.csv: has no rows"),
        ("a.csv", "question,answer\nq,\n", "a.csv:2: column 'answer' is empty"),
        ("a.parquet", "not parquet", "a.parquet: is no parquet file"),
        ("a.txt", " \n", "a.txt: has no rows"),
        ("a.docx", "x", "a.docx: this kind of file is not read; use .jsonl, .json"),
    ],
)  # fmt: skip
def test_bad_files_are_named(name: str, content: str, complaint: str, tmp_path: Path) -> None:
    """Each format has its own ways to break; the message says where."""
    with pytest.raises(DataError, match=re.escape(complaint)):
        load(tmp_path, content, name)


def test_a_column_that_was_set_must_be_there(tmp_path: Path) -> None:
    """Optional by default, required once named."""
    with pytest.raises(DataError, match=r"column 'para' is missing.*\[data\]\.paraphrase"):
        load(tmp_path, lines(GOOD), paraphrase="para")


@pytest.mark.parametrize("path", ["gone.jsonl", "some/deeper/folder/rows", "./gone"])
def test_a_missing_file_is_not_looked_for_on_the_hub(path: str, tmp_path: Path) -> None:
    """What has an extension that is read, or no shape of an id, is a path."""
    with pytest.raises(DataError, match="no such file"):
        Files(forget=path).load(DataContext(0, tmp_path))


def test_a_folder_is_read_as_the_hub_is(tmp_path: Path) -> None:
    """`load_dataset` reads a local folder: config-less, with the split that is asked for."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(GOOD))
    (folder / "test.jsonl").write_text(lines({**GOOD, "answer": "t"}, GOOD))
    hub = {"path": "set", "split": "test"}
    bundle = Files(forget="set", retain=hub).load(DataContext(0, tmp_path))
    assert bundle.forget == (Row.qa("0", "q", "a"),)
    assert [row.answer for row in bundle.retain] == ["t", "a"]
    with pytest.raises(DataError, match=r"set \(split nope\): cannot be loaded: .*nope"):
        Files(forget={"path": "set", "split": "nope"}).load(DataContext(0, tmp_path))


def test_a_hub_id_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error that names id, config, split and what would work."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    hub = {"path": "nobody/nothing", "config": "small", "revision": "v1"}
    with pytest.raises(DataError) as caught:
        Files(forget=hub).load(DataContext(0, tmp_path))
    assert caught.value.where == "nobody/nothing (small, split train, v1)"
    assert caught.value.what.startswith("cannot be loaded: ")
    assert "HF_HOME" in caught.value.hint


@pytest.mark.parametrize(
    ("hub", "complaint"),
    [({"path": "a", "spilt": "b"}, "unknown key 'spilt'"), ({"split": "b"}, "no path")],
)
def test_keys_of_hub_data(hub: dict[str, str], complaint: str, tmp_path: Path) -> None:
    """A misspelt key is not ignored."""
    with pytest.raises(DataError, match=f"{complaint}.*use path, config, split and revision"):
        Files(forget=hub).load(DataContext(0, tmp_path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("locuslab/TOFU", True),
        ("squad", True),
        ("a/b/c", False),
        ("../a", False),
        ("a/b.jsonl", False),
        ("a/b-1.5", True),
    ],
)
def test_shape_of_a_hub_id(path: str, expected: bool) -> None:
    """`name` or `owner/name`; a dot is no extension unless it is one that is read."""
    assert _read.is_hub_id(path) is expected
