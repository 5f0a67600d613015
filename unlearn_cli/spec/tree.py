"""A spec before it is typed: plain tables, and for every key the place that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_cli.errors import SpecError, UnlearnError
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.slots import SLOTS, TABLES, Slot

_ALTERNATIVES: tuple[tuple[KeyPath, KeyPath], ...] = (
    (("train", "epochs"), ("train", "steps")),
    (("retain_reference", "path"), ("retain_reference", "evaluation")),
    (("wrap", "sam_rho"), ("wrap", "noise_sigma")),
    (("model", "path"), ("target", "base")),
)
"""Keys that exclude each other: to set one is to take back an inherited other."""


@dataclass(frozen=True)
class Origin:
    """Where a key was written."""

    source: str
    """The file as the user named it, `preset NAME`, or the flag in full."""
    line: int | None = None
    folder: Path | None = None
    """Folder of the file; None for presets and flags, whose paths are relative to the current."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """Something wrong with a key, not yet located."""

    path: KeyPath
    what: str
    hint: str = ""


@dataclass
class Tree:
    """Tables as read, with an origin for every key, table and array item; `()` is the file."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> Origin:
        """The origin of a key, or of the nearest table around it where it is not written."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def located(self, problems: Iterable[Problem]) -> list[UnlearnError]:
        """The problems as errors, in the order of their lines."""
        ordered = sorted(problems, key=lambda problem: self.origin(problem.path).line or 0)
        return [self._error(problem) for problem in ordered]

    def overlay(self, top: Tree) -> None:
        """Put `top` over this tree: tables merge, everything else is replaced.

        A table that names another plugin than the inherited one starts without the options of the
        old plugin. Raises SpecError for a flag into an `[[evaluate]]` that does not exist.
        """
        for one, other in _ALTERNATIVES:
            self._take_back(one, other, top)
            self._take_back(other, one, top)
        self._merge((), self.data, top)
        self.origins |= top.origins

    def _take_back(self, given: KeyPath, other: KeyPath, top: Tree) -> None:
        if lookup(top.data, given) is not None and lookup(top.data, other) is None:
            self._drop(other)

    def _merge(self, path: KeyPath, base: dict[Any, Any], top: Tree) -> None:
        over = lookup(top.data, path)
        self._drop_old_plugin(path, base, over)
        for key, value in over.items():
            inner = (*path, key)
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                self._merge(inner, base[key], top)
            elif isinstance(value, dict) and value and all(isinstance(name, int) for name in value):
                base[key] = self._merge_items(inner, base.get(key), top)
            else:
                self._drop(inner)
                base[key] = deepcopy(value)

    def _merge_items(self, path: KeyPath, old: Any, top: Tree) -> list[Any]:
        """Flags such as `evaluate.0.batch_size=4` change the items of an inherited array."""
        items = dict(enumerate(old if isinstance(old, list) else []))
        for index in lookup(top.data, path):
            if index > len(items):
                raise SpecError([_no_item(top, (*path, index), len(items))])
            items.setdefault(index, {})
        self._merge(path, items, top)
        return list(items.values())

    def _drop_old_plugin(self, path: KeyPath, base: dict[Any, Any], top: Mapping[Any, Any]) -> None:
        slot = SLOTS.get(str(path[0])) if path and is_plugin_table(path) else None
        if slot and _changes_plugin(slot, base, top):
            for key in [key for key in base if key not in slot.survives]:
                self._forget(path, key, base)

    def _drop(self, path: KeyPath) -> None:
        table = lookup(self.data, path[:-1])
        if isinstance(table, dict) and path[-1] in table:
            self._forget(path[:-1], path[-1], table)

    def _forget(self, path: KeyPath, key: str | int, table: dict[Any, Any]) -> None:
        del table[key]
        gone = (*path, key)
        self.origins = {
            path: origin for path, origin in self.origins.items() if path[: len(gone)] != gone
        }

    def _error(self, problem: Problem) -> UnlearnError:
        origin = self.origin(problem.path)
        # A flag names its key; what stands within its value it does not name.
        within = self.origins.get(problem.path[:-1]) is origin
        told = problem.path in self.origins and origin.line is None and not within
        where = f"{origin}" if told or not problem.path else f"{origin}: {label(problem.path)}"
        return UnlearnError(problem.what, where=where, hint=problem.hint)


def lookup(data: Any, path: KeyPath) -> Any:
    """The value at a path; None where there is none."""
    for key in path:
        if isinstance(data, Mapping):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key] if key < len(data) else None
        else:
            return None
    return data


def label(path: KeyPath) -> str:
    """A path for people: `seed`, `[method]`, `[method].beta`, `[evaluate.0].batch_size`."""
    size = 2 if len(path) > 1 and isinstance(path[1], int) else 1
    table, keys = ".".join(map(str, path[:size])), ".".join(map(str, path[size:]))
    if keys:
        return f"[{table}].{keys}"
    return f"[{table}]" if path[0] in TABLES else table


def is_plugin_table(path: KeyPath) -> bool:
    """Whether the path is that of a table that names a plugin."""
    slot = SLOTS.get(str(path[0]))
    return slot is not None and len(path) == (2 if slot.array else 1)


def _changes_plugin(slot: Slot, base: Mapping[Any, Any], top: Mapping[Any, Any]) -> bool:
    old, new = base.get(slot.key, slot.default), top.get(slot.key)
    return old is not None and new is not None and old != new


def _no_item(top: Tree, path: KeyPath, size: int) -> UnlearnError:
    origin = next(origin for key, origin in top.origins.items() if key[:2] == path)
    what = f"there is no [[{path[0]}]] {path[1]}"
    return UnlearnError(what, where=f"{origin}", hint=f"there are {size}, counted from 0")
