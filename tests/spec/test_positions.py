"""Lines of keys."""

from __future__ import annotations

from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from unlearn_cli.spec.positions import KeyPath, key_lines


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2", ("b",), 2),
        ("# a = 1\n\n[t]\nb = 2", ("t",), 3),
        ("[t]\n\n  b = 2  # c = 3", ("t", "b"), 3),
        ("[ t . u ]\nb = 2", ("t", "u", "b"), 2),
        ("a . b . c = 1", ("a", "b", "c"), 1),
        ('\n"a.b".c = 1', ("a.b", "c"), 2),
        ('\n"\\u00e9" = 1', ("é",), 2),
        ("\n'lit \\ eral' = 1", ("lit \\ eral",), 2),
        ("a = '''\nb = 1\n'''\nc = 2", ("c",), 4),
        ('a = """\nb = 1\\"""\n"""""\nc = 2', ("c",), 4),
        ('a = "x # [t]"\nc = "\\"] = "\nd = 1', ("d",), 3),
        ("a = [1,\n [2, 3], # ]\n 4]\nb = 1", ("b",), 4),
        ("a = [1,\n [2, 3],\n 4]", ("a", 2), 3),
        ("a = {b = 1, c = {d = 2}}\ne = 1", ("a", "c", "d"), 1),
        ("a = [\n {b = 1},\n {b = 2}]", ("a", 1, "b"), 3),
        ("a = 1979-05-27 07:32:00 # x\nb = 1", ("b",), 2),
        ("[[e]]\nx = 1\n[[e]]\nx = 2", ("e", 1, "x"), 4),
        ("[[e]]\n[e.t]\nx = 1\n[[e]]\n[e.t]\nx = 2", ("e", 1, "t", "x"), 6),
        ("[[e]]\n[[e.f]]\n[[e]]\n[[e.f]]\n[[e.f]]\nx = 1", ("e", 1, "f", 1, "x"), 6),
    ],
)
def test_a_key_has_the_line_that_it_is_written_on(text: str, path: KeyPath, line: int) -> None:
    """Tables, dotted and quoted keys, inline tables, multi-line strings, arrays of tables."""
    assert key_lines(text)[path] == line


def test_a_table_begins_at_its_first_mention() -> None:
    """`[a.b]` mentions `a`, and a later `[a]` does not move it."""
    assert key_lines("[a.b]\n[a]\nc = 1")["a",] == 1


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every path of parsed TOML."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    inner = [paths(item, (*path, key)) for key, item in items]
    return set().union({path} - {()}, *inner)


scalars = st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=6)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_every_key_of_any_document_is_found_and_no_other(document: dict[str, Any]) -> None:
    """The scanner sees the same keys as the parser, whatever the strings hold."""
    text = tomlkit.dumps(document)
    assert set(key_lines(text)) == paths(tomlkit.parse(text).unwrap())
