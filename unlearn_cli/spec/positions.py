"""On which line each key of a TOML document stands.

`tomllib` gives values without positions. So the document is parsed by it first, and this scanner,
which may then rely on the document being valid, walks the same text once more for the lines.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KeyPath = tuple[str | int, ...]
"""Keys from the root; an integer counts the items of an array from 0."""

_BLANK = re.compile(r"(?:[\s,]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?!")'
    r"|'''.*?'''(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^\s,\]}#][^,\]}#\n]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, on which each table, key and array item of valid TOML begins."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[KeyPath, int] = {}
        self.items: dict[KeyPath, int] = {}
        """Array of tables -> index of its last item."""

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self.blank()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()
        return self.lines

    def header(self) -> KeyPath:
        start = self.at
        array = self.text.startswith("[[", start)
        self.skip("[[" if array else "[")
        keys = list(self.keys())
        self.blank()
        self.skip("]]" if array else "]")
        path = self.enter((), keys[:-1], start)
        path = (*path, keys[-1])
        self.mark(path, start)
        if not array:
            return self.last_item(path)
        self.items[path] = self.items.get(path, -1) + 1
        path = self.last_item(path)
        self.mark(path, start)
        return path

    def pair(self, table: KeyPath) -> None:
        start = self.at
        *parents, key = self.keys()
        path = (*self.enter(table, parents, start), key)
        self.mark(path, start)
        self.match(_EQUALS)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        opening = self.text[self.at]
        if opening == "{":
            self.inline_table(path)
        elif opening == "[":
            self.array(path)
        else:
            self.match(_STRING if opening in "\"'" else _SCALAR)

    def inline_table(self, path: KeyPath) -> None:
        self.skip("{")
        while self.text[self.at] != "}":
            self.pair(path)
            self.blank()
        self.skip("}")

    def array(self, path: KeyPath) -> None:
        self.skip("[")
        index = 0
        while self.text[self.at] != "]":
            self.mark((*path, index), self.at)
            self.value((*path, index))
            self.blank()
            index += 1
        self.skip("]")

    def keys(self) -> Iterator[str]:
        """A dotted key, part by part."""
        yield self.key()
        while self.match(_DOT):
            yield self.key()

    def key(self) -> str:
        if quoted := self.match(_STRING):
            return str(tomllib.loads(f"key = {quoted}")["key"])
        return self.match(_BARE_KEY)

    def enter(self, path: KeyPath, parents: list[str], start: int) -> KeyPath:
        """Go down through `parents`, each into its last item where it is an array of tables."""
        for key in parents:
            path = (*path, key)
            self.mark(path, start)
            path = self.last_item(path)
        return path

    def last_item(self, path: KeyPath) -> KeyPath:
        return (*path, self.items[path]) if path in self.items else path

    def mark(self, path: KeyPath, start: int) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, start) + 1)

    def match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def skip(self, opening: str) -> None:
        self.at += len(opening)
        self.blank()

    def blank(self) -> None:
        self.match(_BLANK)
