"""Untrusted text and figures become readable and safe."""

from __future__ import annotations

import pytest

from unlearn_cli.report.words import duration, number, size
from unlearn_cli.safe_text import clean


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\x1b[2Jb", "ab"),  # erase the screen
        ("a\x1b[31;1mb\x1b[0m", "ab"),  # colours
        ("a\x1b]0;title\x07b", "ab"),  # window title, ended by BEL
        ("a\x1b]8;;http://x\x1b\\b", "ab"),  # link, ended by ST
        ("a\x9b2Jb", "ab"),  # the same in C1
        ("a\x1bcb", "ab"),  # reset
        ("a\x1b", "a"),
        ("a\x08\x00\x7fb", "ab"),
        ("a\u202eb\u2066c", "abc"),  # bidi overrides
        ("\ud800a", "a"),  # a lone surrogate cannot be encoded
        ("a\r\n\t b", "a b"),
        ("naïve 名前 👩\u200d💻", "naïve 名前 👩\u200d💻"),
    ],
)
def test_clean(text: str, safe: str) -> None:
    """What could steer a terminal goes; letters of any script stay."""
    assert clean(text) == safe


def test_clean_keeps_newlines_when_asked() -> None:
    """Answers in the report keep their lines, and nothing else that is not text."""
    assert clean("a\nb\tc\x1b[2J\r", keep_newlines=True) == "a\nb\tc"


def test_clean_cuts() -> None:
    """A text is cut to the limit, the ellipsis counted."""
    assert clean("abcdef", 4) == "abc…"
    assert clean("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.0005, "0.001"),
        (0.0004, "4.0e-04"),
        (1.834066e-21, "1.8e-21"),
        (0.6227, "0.623"),
        (-1.5, "-1.500"),
        (12.34, "12.3"),
        (123456.0, "1.2e+05"),
    ],
)
def test_number(value: float, text: str) -> None:
    """No figure is shown as 0.000 unless it is zero."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2s"), (59.99, "60.0s"), (200, "3m 20s"), (3900, "1h 05m"), (3599.6, "1h 00m")],
)
def test_duration(seconds: float, text: str) -> None:
    """Seconds, then minutes, then hours."""
    assert duration(seconds) == text


def test_size() -> None:
    """Bytes in binary units."""
    assert size(512 * 2**20) == "512 MiB"
    assert size(3 * 2**29) == "1.5 GiB"
