"""Values of Hydra's overrides."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_cli.convert.hydra import Value, parse_value, split_top


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-3", -3),
        (".5", 0.5),
        ("null", None),
        ("True", True),
        ("no", "no"),
        ("'1'", "1"),
        (r"'it\'s'", "it's"),
        ('"a, b"', "a, b"),
        ("[]", []),
        ("[1, b, [null]]", [1, "b", [None]]),
        ("{a: 1, b: {c: x}}", {"a": 1, "b": {"c": "x"}}),
        ("forget10", "forget10"),
        ("10 Apr 2025", "10 Apr 2025"),
        ("", ""),
    ],
)
def test_values_are_those_of_hydra(text: str, value: Value) -> None:
    """Numbers, words, quotes, lists and dictionaries, each with its type."""
    found = parse_value(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "1]", "{a: 1", "[1}", "[a,'b]"])
def test_what_does_not_close_is_refused(text: str) -> None:
    """Brackets and quotes are counted."""
    with pytest.raises(ValueError, match=r"missing|close"):
        split_top(text)


@given(st.lists(st.text("abc123.-_", min_size=1)))
def test_splitting_undoes_joining(parts: list[str]) -> None:
    """Commas inside brackets and quotes separate nothing; others do."""
    wrapped = [f"[{part},'{part},']" for part in parts]

    assert split_top(",".join(wrapped)) == (wrapped or [""])


@given(st.text())
def test_any_text_has_a_value_or_an_error_in_words(text: str) -> None:
    """Nothing but ValueError is raised, however the text is made."""
    with suppress(ValueError):
        assert isinstance(parse_value(text), str | int | float | list | dict | None)
