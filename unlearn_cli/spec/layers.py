"""From files, presets and flags to one tree: reading, `extends` and precedence."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from unlearn_cli.errors import SpecError, UnlearnError
from unlearn_cli.spec.paths import exists, is_file, user_path
from unlearn_cli.spec.positions import KeyPath, key_lines
from unlearn_cli.spec.tree import Origin, Tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEEPEST = 50
"""Levels of tables and arrays within each other; no spec has ten."""


@dataclass(frozen=True)
class Source:
    """A TOML document: a file, or a preset that comes with the tool."""

    shown: str
    """How messages name it."""
    place: Path
    folder: Path | None
    """Folder of the file; None for a preset."""


def preset_names() -> list[str]:
    """The presets that come with the tool."""
    return sorted(file.stem for file in _presets().glob("*.toml"))


def read_tree(name: str) -> Tree:
    """The tables of a file or preset, over those that it extends.

    Raises SpecError for a document that cannot be found, read or parsed, and for a cycle.
    """
    return _read(_find(name, Path(), where=""), seen=())


def flags(overrides: Sequence[str], values: Mapping[str, Any]) -> tuple[Tree, list[UnlearnError]]:
    """The tree of `--set KEY=VALUE` flags and of those with a value of their own (`--seed 1`; None
    where they are not given), and what is wrong with the form of the former."""
    tree = Tree()
    told = [(override, _set(tree, override)) for override in overrides]
    problems = [
        UnlearnError(what, where=f"--set {override}", hint=_SET_HINT)
        for override, what in told
        if what
    ]
    for key, value in values.items():
        if value is not None:
            tree.data[key], tree.origins[key,] = value, Origin(f"--{key} {value}")
    return tree, problems


_SET_HINT = "write it as --set table.key=value, e.g. --set method.beta=0.1"
_BARE_STRING = re.compile(r"[^\s\[{\"'].*", re.DOTALL)


def _presets() -> Path:
    return Path(str(resources.files("unlearn_cli"))) / "presets"


def _find(name: str, folder: Path, where: str) -> Source:
    path = folder / user_path(name)
    if is_file(path):
        return Source(str(path), path, path.parent)
    if name in preset_names():
        return Source(f"preset {name}", _presets() / f"{name}.toml", None)
    raise SpecError([_not_found(name, path, where)])


def _not_found(name: str, path: Path, where: str) -> UnlearnError:
    if exists(path):
        return UnlearnError(f"{name} is no file", where=where, hint="name a TOML file")
    presets = preset_names()
    close = get_close_matches(name, presets, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the presets are {', '.join(presets)}"
    return UnlearnError(f"no file and no preset is called {name!r}", where=where, hint=hint)


def _read(source: Source, seen: tuple[Source, ...]) -> Tree:
    top = _parse(source)
    if "extends" not in top.data:
        return top
    where, name = f"{top.origin(('extends',))}: extends", top.data.pop("extends")
    if not isinstance(name, str):
        raise SpecError([UnlearnError("must be a preset or a file, in quotes", where=where)])
    parent = _find(name, source.folder or Path(), where)
    seen = (*seen, source)
    if parent.place.resolve() in [step.place.resolve() for step in seen]:
        chain = " -> ".join(step.shown for step in (*seen, parent))
        raise SpecError([UnlearnError(f"extends goes in a circle: {chain}", where=where)])
    tree = _read(parent, seen)
    tree.overlay(top)
    return tree


def _parse(source: Source) -> Tree:
    text = _text(source).replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
        if _is_deeper(data, DEEPEST):
            raise ValueError(f"more than {DEEPEST} brackets within each other")
    except (ValueError, RecursionError) as error:  # also of a number that is too long
        raise SpecError([_syntax_error(source, text, str(error))]) from None
    if not data:
        hint = "`unlearn init` writes a spec to start from"
        raise SpecError([UnlearnError("the spec is empty", where=source.shown, hint=hint)])
    origins: dict[KeyPath, Origin] = {(): Origin(source.shown, None, source.folder)}
    for path, line in key_lines(text).items():
        origins[path] = Origin(source.shown, line, source.folder)
    return Tree(data, origins)


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _text(source: Source) -> str:
    try:
        raw = source.place.read_bytes()
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise SpecError([UnlearnError(what, where=source.shown)]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{source.shown}:{line}"
        what = f"not UTF-8 text (byte 0x{raw[error.start]:02x})"
        raise SpecError([UnlearnError(what, where=where, hint="save it as UTF-8")]) from None


def _syntax_error(source: Source, text: str, message: str) -> UnlearnError:
    """tomllib says `Message (at line 3, column 7)` or `Message (at end of document)`."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message)
    if found is None:
        return UnlearnError(f"not valid TOML: {message}", where=source.shown)
    what, line, column = found.groups()
    line = line or str(text.rstrip().count("\n") + 1)
    at = f" at column {column}" if column else ""
    hint = _SYNTAX_HINTS.get(what, "")
    return UnlearnError(f"not valid TOML{at}: {what}", where=f"{source.shown}:{line}", hint=hint)


_SYNTAX_HINTS = {
    "Invalid value": "text stands in quotes, true and false in small letters",
    "Cannot overwrite a value": "each key may stand only once",
    "Cannot declare twice": "each table may stand only once",
}


def _set(tree: Tree, override: str) -> str:
    """Put one flag into the tree; returns what is wrong with it, empty where nothing is."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or not text.strip():
        return "not of the form KEY=VALUE"
    try:
        path, value = _flag_path(key.strip()), _flag_value(text.strip())
    except ValueError as error:
        return str(error)
    table: Any = tree.data
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return f"another flag sets {part} to something that holds no keys"
    table[path[-1]] = value
    _own(tree, path, value, Origin(f"--set {override}"))
    return ""


def _own(tree: Tree, path: KeyPath, value: Any, origin: Origin) -> None:
    tree.origins[path] = origin
    inner = value.items() if isinstance(value, Mapping) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        _own(tree, (*path, key), item, origin)


def _flag_path(key: str) -> KeyPath:
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except (ValueError, RecursionError):
        raise ValueError(f"{key!r} is not a key") from None
    path: list[str | int] = []
    while isinstance(table, dict):
        ((part, table),) = table.items()
        path.append(part)
    if path[0] == "evaluate" and len(path) > 1 and str(path[1]).isdecimal():
        path[1] = int(path[1])
    return tuple(path)


def _flag_value(value: str) -> Any:
    try:
        value.encode()
        table = tomllib.loads(f"value = {value}")
        if _is_deeper(table, DEEPEST):
            raise ValueError(f"more than {DEEPEST} brackets within each other")
    except UnicodeEncodeError:
        raise ValueError("not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        if _BARE_STRING.fullmatch(value):
            return value
        raise ValueError(f"the value is not valid TOML: {error}") from None
    parsed = table["value"]
    return value if len(table) > 1 or isinstance(parsed, datetime | date | time) else parsed
