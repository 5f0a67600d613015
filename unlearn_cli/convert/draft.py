"""A spec on its way to a file: values with where they come from, checked and written as TOML."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearn_cli.convert.config import Note, Setting
from unlearn_cli.errors import SpecError
from unlearn_cli.spec.layers import read_tree
from unlearn_cli.spec.load import problems_of
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.tables import Spec
from unlearn_cli.spec.template import comment, toml_value
from unlearn_cli.spec.tree import Origin, Tree

_AT_COLUMN = 42


@dataclass
class Draft:
    """What a spec says beyond the preset that it extends."""

    preset: str
    entries: dict[KeyPath, tuple[Any, str]] = field(default_factory=dict)
    """Key -> value and comment."""
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def put(self, key: str, value: Any, setting: Setting | None = None, why: str = "") -> None:
        """Set a key, `table.key`, or `evaluate.key` for the one evaluator.

        Args:
            key: of the spec.
            value: of the key; None leaves it out.
            setting: where the value comes from.
            why: a comment; by default the file of the setting.
        """
        if value is None:
            return
        table, _, name = key.rpartition(".")
        path: KeyPath = (table, 0, name) if table == "evaluate" else tuple(key.split("."))
        self.entries[path] = value, why or (setting.file if setting else "")
        self.origins[path] = Origin(setting.said if setting else key)

    def tree(self) -> Tree:
        """The spec with the preset under it."""
        tree = read_tree(self.preset)
        tree.overlay(Tree(self._data(), self.origins))
        return tree

    def check(self) -> None:
        """Raise SpecError where `unlearn check` would, naming what was said."""
        if problems := problems_of(self.tree()):
            raise SpecError(problems)

    def toml(self, words: Sequence[str], file: str, run: str, notes: Sequence[Note]) -> str:
        """The text of the file, whose beginning says how to check and to run it."""
        lines = [*comment(f"From open-unlearning: {_printable(shlex.join(words))}")]
        lines += comment(_printable(f"Check it with `unlearn check {file}`; then `{run}`."))
        lines += comment("Paths that are not absolute are looked for beside this file.")
        lines += ["", f"extends = {toml_value(self.preset)}", *self._table(())]
        for name in Spec.model_fields:
            head = (name, 0) if name == "evaluate" else (name,)
            if table := list(self._table(head)):
                lines += ["", f"[[{name}]]" if name == "evaluate" else f"[{name}]", *table]
        if notes:
            lines += ["", "# Without counterpart:"]
        for note in notes:
            first, *rest = comment(_printable(f"- {note}"))
            lines += [first, *(f"#   {line[2:]}" for line in rest)]
        return "\n".join(lines) + "\n"

    def _table(self, head: KeyPath) -> Iterator[str]:
        for path, (value, why) in self.entries.items():
            if path[:-1] == head:
                line = f"{path[-1]} = {toml_value(value)}"
                yield f"{line:<{_AT_COLUMN}}  # {why}" if why else line

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for path, (value, _) in self.entries.items():
            table = data
            for part in path[:-1]:
                if part != 0:
                    table = table.setdefault(str(part), {})
            table[str(path[-1])] = value
        if "evaluate" in data:
            data["evaluate"] = [data["evaluate"]]
        return data


def _printable(text: str) -> str:
    """On one line of a comment: control characters, which TOML forbids there, are left out."""
    return "".join(char if char.isprintable() else " " for char in text)
