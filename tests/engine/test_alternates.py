"""Alternate answers that the model makes: told apart, and drawn again where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from accelerate import Accelerator

from unlearn_cli.api.data import Row
from unlearn_cli.engine import alternates
from unlearn_cli.engine.alternates import asked, make_alternates
from unlearn_cli.errors import DataError
from unlearn_cli.spec.tables import AlternatesTable

ROWS = [Row.qa("0", "Where?", "In Rome."), Row.qa("1", "Who?", "Ada.", answers=("Ada.", "Ada L."))]


class Prompts:
    """Stands in for an encoder: remembers what is asked."""

    def prompt(self, row: Row) -> list[str]:
        return [row.question]


def made(monkeypatch: pytest.MonkeyPatch, said: Iterator[list[str]], count: int) -> Any:
    """What comes of answers that are `said` batch after batch."""
    monkeypatch.setattr(alternates, "generate_batch", lambda *_, **__: next(said))
    table = AlternatesTable(count=count)
    return make_alternates(None, Prompts(), ROWS, table, Accelerator(), seed=0)  # type: ignore[arg-type]


def test_the_true_answer_and_repetitions_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case and punctuation do not make another answer, nor do other accepted answers.
    The longer prompt comes first in a batch."""
    said = iter(
        [
            ["In Oslo.", "ada l"],  # Who? has still none
            ["in rome", "Bo."],
            ["In Oslo!", "bo"],
            ["Bergen", "Cy"],
        ]
    )
    assert made(monkeypatch, said, 2) == [("In Oslo.", "Bergen"), ("Bo.", "Cy")]


def test_a_row_without_any_alternate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives nothing but the true answer stops the run, after four draws for each."""

    def parrot() -> Iterator[list[str]]:
        yield ["Nowhere", "Ada."]
        while True:
            yield ["Ada."]

    with pytest.raises(DataError, match="to row 1") as caught:
        made(monkeypatch, parrot(), 1)
    assert "temperature" in str(caught.value.hint)


def test_the_question_stands_in_the_prompt() -> None:
    """Only the last user message is replaced; braces in a question are no template."""
    row = Row.qa("0", "What is {x}?", "1")
    assert asked(row, "{question} Lie.").question == "What is {x}? Lie."
