"""From what a user wrote to what runs: every default filled in, every path absolute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn_cli.spec.paths import exists, user_path
from unlearn_cli.spec.plugins import fill_options, plugins_of
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.tables import OutputTable
from unlearn_cli.spec.tree import Tree, lookup

_LOCATIONS: tuple[KeyPath, ...] = (
    ("model", "path"),
    ("model", "tokenizer"),
    ("target", "base"),
    ("retain_reference", "path"),
    ("retain_reference", "evaluation"),
    ("data", "alternates"),
)
_KEYWORDS: dict[KeyPath, tuple[str, ...]] = {
    ("data", "alternates"): ("refusals", "column", "model"),
}
DEFAULT_EPOCHS = 10.0


def fill(data: dict[str, Any]) -> dict[str, Any]:
    """Tables without problems, with what is not said filled in, in place."""
    for _, table, plugin in plugins_of(data):
        fill_options(table, plugin)
    _choose_target(data)
    _choose_length(data)
    return data


def resolve(tree: Tree) -> dict[str, Any]:
    """The tables of a tree without problems, resolved in place. Resolving twice changes nothing."""
    data = fill(tree.data)
    locations = [*_LOCATIONS]
    for path, _, plugin in plugins_of(data):
        locations += [(*path, option.name) for option in plugin.options if option.location]
    for path in locations:
        _put(data, path, _located(tree, path, lookup(data, path)))
    output = data.setdefault("output", {})
    folder = output.get("folder", OutputTable().folder)
    output["folder"] = str(user_path(folder).absolute())
    return data


def _choose_target(data: dict[str, Any]) -> None:
    if lookup(data, ("target", "base")) is not None:
        for table in ("model", "retain_reference"):
            data.get(table, {}).pop("path", None)


def _choose_length(data: dict[str, Any]) -> None:
    train = data.setdefault("train", {})
    if "steps" not in train:
        train.setdefault("epochs", DEFAULT_EPOCHS)


def _put(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    if value is not None:
        lookup(data, path[:-1])[path[-1]] = value


def _located(tree: Tree, path: KeyPath, value: Any) -> Any:
    if isinstance(value, list):
        return [_located(tree, path, item) for item in value]
    if isinstance(value, dict) and "path" in value:  # hub data: { path, config, split }
        return value | {"path": _located(tree, path, value["path"])}
    if not isinstance(value, str) or value in _KEYWORDS.get(path, ()):
        return value
    there = (folder / user_path(value) for folder in _folders(tree, path))
    return next((str(file.absolute()) for file in there if exists(file)), value)


def _folders(tree: Tree, path: KeyPath) -> Iterator[Path]:
    """Where a relative path may start: the folder of its file, then the current one."""
    if path in tree.origins and (folder := tree.origins[path].folder):
        yield folder
    yield Path()
