"""Checks of the rows of a run, and what is told of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_encode import CHAT, byte_tokenizer, encoder
from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.engine.data import check_overlap, load_alternates, show_tokens
from unlearn_cli.engine.rows import fingerprint
from unlearn_cli.engine.tokens import encode_split
from unlearn_cli.errors import DataError


def rows(*answers: str, kind: Any = "chat") -> tuple[Row, ...]:
    made = (Row.qa(str(k), f"Question {k}?", answer) for k, answer in enumerate(answers))
    return tuple(replace(row, kind=kind) for row in made)


def test_a_split_knows_the_row_of_each_sequence() -> None:
    """A text of ten tokens in chunks of four is three sequences of row 0; a short one is one."""
    split = encode_split(
        encoder(byte_tokenizer(), max_length=4), rows("abcdefghij", "xyz", kind="text"), "forget"
    )
    assert split.row.tolist() == [0, 0, 0, 1]
    assert [len(item.input_ids) for item in split.items] == [4, 4, 2, 3]
    assert split.items.answers.sum() == 13 - 4  # the first token of each sequence has no label


def test_rows_without_an_answer_token_stop_by_name() -> None:
    """The first ten are named, all are counted, and the split is named."""
    with pytest.raises(DataError) as caught:
        encode_split(encoder(byte_tokenizer(CHAT)), rows("a", *[""] * 12), "retain")
    expected = "retain: 12 rows (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...) without an answer token"
    assert caught.value.line().startswith(expected)


def test_an_answer_that_does_not_fit_names_split_and_row() -> None:
    """The encoder knows the row; the split is added."""
    with pytest.raises(DataError, match=r"^forget, row 1: the answer has 31 tokens"):
        encode_split(encoder(byte_tokenizer(), max_length=30), rows("a", "b" * 30), "forget")


def test_nothing_to_forget_is_an_error() -> None:
    """An empty forget set stops the run before a model loads."""
    with pytest.raises(DataError, match="no rows to forget"):
        check_overlap(Bundle(forget=()), "allow")


def test_overlap_is_found_in_spite_of_case_and_spaces() -> None:
    """Row 1 of forget is in retain, said with other case and white space; row 0 is not."""
    retain = (Row.qa("x", "QUESTION  1?", " bob\n"),)
    bundle = Bundle(forget=rows("Ann", "Bob"), retain=retain)
    assert check_overlap(bundle, "warn") == ["1 row (1) of forget also in retain"]
    assert check_overlap(bundle, "allow") == []
    with pytest.raises(DataError, match=r"1 row \(1\) of forget also in retain; remove"):
        check_overlap(bundle, "error")


def test_the_same_question_with_another_answer_is_no_overlap() -> None:
    """What is compared is prompt and answer together."""
    bundle = Bundle(forget=rows("Ann"), retain=rows("Not Ann"))
    assert check_overlap(bundle, "error") == []


def test_holdout_rows_that_were_trained_on_are_named() -> None:
    """A held-out row that is also in forget or retain was seen by the model."""
    bundle = Bundle(forget=rows("Ann"), retain=rows("-", "Bob"), holdout=rows("Ann", "Bob"))
    assert check_overlap(bundle, "warn") == [
        "1 row (0) of forget also in holdout",
        "1 row (1) of retain also in holdout",
    ]


@pytest.mark.parametrize("policy", ["error", "warn", "allow"])
def test_duplicates_in_forget_are_a_notice(policy: Any) -> None:
    """Whatever the policy on overlap: the later of two equal rows is named, and the run goes on."""
    twice = (*rows("Ann"), replace(rows("Ann")[0], id="again"))
    notice = "1 row (again) of forget repeating an earlier one"
    assert check_overlap(Bundle(forget=twice), policy) == [notice]


def test_refusals_come_with_the_tool(tmp_path: Path) -> None:
    """At least forty different sentences, the same choice for every row."""
    first, second = load_alternates("refusals", rows("a", "b"), tmp_path)
    assert first == second
    assert len(set(first)) == len(first) >= 40
    assert all(re.fullmatch(r"[A-Z].*\.", sentence) for sentence in first)


def test_alternates_from_the_column(tmp_path: Path) -> None:
    """Each row brings its own; rows without are named."""
    full = Row.qa("a", "?", "x", alternates=("y", "z"))
    assert list(load_alternates("column", [full, full], tmp_path)) == [("y", "z")] * 2
    with pytest.raises(DataError, match=r"2 rows \(0, 1\) without alternate answers"):
        load_alternates("column", [full, *rows("a", "b")], tmp_path)


def test_alternates_from_a_file(tmp_path: Path) -> None:
    """One answer a line; blank lines and white space at the ends do not count."""
    (tmp_path / "no.txt").write_text("Never heard.\n\n  Ask Zoë.  ", "utf-8")
    assert load_alternates("no.txt", rows("a"), tmp_path) == [("Never heard.", "Ask Zoë.")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read: No such file"), (b"\n \n", "has no answers"), (b"\xff", "not UTF-8")],
)
def test_alternates_files_that_cannot_be_used(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    """Each complaint names the file."""
    if content is not None:
        (tmp_path / "no.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"no\.txt: .*{complaint}"):
        load_alternates("no.txt", rows("a"), tmp_path)


def test_fingerprint_is_of_content_and_order() -> None:
    """Equal rows, equal fingerprint; any changed field, or another order, another one."""
    base = rows("a", "b")
    assert fingerprint(base) == fingerprint(list(rows("a", "b")))
    others = [base[::-1], base[:1], rows("a", "c"), [base[0], replace(base[1], paraphrase="p")], []]
    assert len({fingerprint(base), *map(fingerprint, others)}) == 6


def test_pieces_with_loss_are_marked() -> None:
    """The pieces joined are the whole text, special tokens and the answer's space included."""
    tokenizer = byte_tokenizer(merges=[("Ġ", "A")])
    (item,) = encoder(tokenizer, prompt="{question}: ").encode(Row.qa("1", "Who?", "Ann"))
    assert show_tokens(tokenizer, item) == [("Who?:", False), (" Ann<eos>", True)]
