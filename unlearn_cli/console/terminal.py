"""What all output shares: the console for results, and signs that its encoding can show."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console as RichConsole

from unlearn_cli.report.words import (
    WANTED,
)


class Signs:
    """The characters that the terminal's encoding can show."""

    def __init__(self, console: RichConsole) -> None:
        self.ascii = not console.encoding.lower().startswith("utf")
        self.tick, self.dot, self.warning = ("*", "|", "!") if self.ascii else ("✓", "·", "!")
        self.dash = "-" if self.ascii else "–"
        self.plus_minus = "+-" if self.ascii else "±"
        self.brackets = ("[[", "]]") if self.ascii else ("⟦", "⟧")
        self.newline = "\\n" if self.ascii else "↵"
        fallback = {"lower": "v", "higher": "^", "reference": "="}
        self.wanted = {
            direction: fallback[direction] if self.ascii else sign
            for direction, (sign, _) in WANTED.items()
        }


class _Console(RichConsole):
    def on_broken_pipe(self) -> None:
        """Leave it to the command what a reader that is gone means: rich would end the process."""
        raise  # the BrokenPipeError, which rich handles where it calls this


def stdout() -> RichConsole:
    """The console for results. Where stdout is a file or a pipe, wide enough not to cut."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the encoding cannot
    console = literal()
    return console if console.is_terminal else literal(width=120)


def literal(**options: Any) -> RichConsole:
    """A console that shows text as it is: brackets are no markup, :smile: is no picture."""
    return _Console(highlight=False, markup=False, emoji=False, **options)


def legend(signs: Signs) -> str:
    """What the signs behind the metrics mean, on one line."""
    return "   ".join(f"{signs.wanted[way]} {meaning}" for way, (_, meaning) in WANTED.items())
