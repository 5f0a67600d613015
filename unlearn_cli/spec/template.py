"""A commented spec to start from: every key, its meaning, and its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unlearn_cli import catalog
from unlearn_cli.spec.layers import read_tree
from unlearn_cli.spec.slots import SLOTS
from unlearn_cli.spec.tables import Spec

SCHEMA_FILE = "unlearn.schema.json"
_WIDTH = 96


def commented_spec(preset: str) -> str:
    """A preset as a spec of its own: what it sets is live, every other key is commented out.

    Raises SpecError where there is no such preset or file.
    """
    data = read_tree(preset).data
    scalars = {key: field for key, field in Spec.model_fields.items() if not _model(field)}
    lines = [f"#:schema ./{SCHEMA_FILE}", f"# Check it with `unlearn check`. From: {preset}", ""]
    for key, field in scalars.items():
        lines += _entry(key, field.description or "", data.get(key), field.default)
    for key, field in Spec.model_fields.items():
        if model := _model(field):
            lines += _tables(key, model, data.get(key))
    return "\n".join(lines) + "\n"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a table or of an array of tables."""
    inner = getattr(field.annotation, "__args__", (field.annotation,))[0]
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _tables(key: str, model: type[BaseModel], value: Any) -> Iterator[str]:
    array = key in SLOTS and SLOTS[key].array
    for table in value or [{}] if array else [value or {}]:
        header = f"[[{key}]]" if array else f"[{key}]"
        yield ""
        yield from comment(model.__doc__ or "")
        yield header if table or not array else f"# {header}"
        for name, field in model.model_fields.items():
            yield from _entry(name, field.description or "", table.get(name), field.default)
        if key in SLOTS:
            yield from _options(key, table)


def _options(key: str, table: Mapping[str, Any]) -> Iterator[str]:
    slot = SLOTS[key]
    name = table.get(slot.key, slot.default)
    if name is None:
        return
    yield f"# Options of the {slot.kind} {name}:"
    for option in catalog.find(slot.kind, name).options:
        yield from _entry(option.name, option.help, table.get(option.name), option.default)


def _entry(key: str, meaning: str, value: Any, default: Any) -> Iterator[str]:
    yield from comment(meaning)
    if value is not None:
        yield f"{key} = {toml_value(value)}"
    elif default is None or not isinstance(default, str | int | float | list | tuple | dict):
        yield f"# {key} ="
    else:
        yield f"# {key} = {toml_value(default)}"


def comment(text: str) -> list[str]:
    """A text as comment lines of a spec."""
    words = " ".join(text.split())
    return [f"# {line}" for line in textwrap.wrap(words, _WIDTH, break_on_hyphens=False)]


def toml_value(value: Any) -> str:
    """A value as TOML writes it behind a key."""
    item: Any = list(value) if isinstance(value, tuple) else value
    if isinstance(value, Mapping):
        item = tomlkit.inline_table()
        item.update(value)
    return str(tomlkit.item(item).as_string())
