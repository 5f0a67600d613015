"""The JSON Schema of a spec, for editors: it completes keys and marks what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from unlearn_cli import catalog
from unlearn_cli.spec.layers import preset_names
from unlearn_cli.spec.slots import SLOTS, Slot
from unlearn_cli.spec.tables import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "unlearn spec"
_JSON_TYPES = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}


def spec_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a spec, with the plugins that are installed.

    Looser than `load_spec` in one point: a file that extends another may leave required keys out.
    """
    schema = Spec.model_json_schema(schema_generator=_TOMLSchema)
    schema |= {"$schema": DIALECT, "title": TITLE}
    schema["properties"] = {"extends": _extends(), **schema["properties"]}
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    schema["$defs"]["MethodTable"].pop("required")  # the name may be inherited
    for slot in SLOTS.values():
        _add_plugins(schema["$defs"][slot.model.__name__], slot)
    return schema


class _TOMLSchema(GenerateJsonSchema):
    """JSON Schema without null, which TOML has not; a table's defaults stand at its keys."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        default = schema.get("default", ...)
        if default is None or isinstance(default, BaseModel):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def _extends() -> dict[str, Any]:
    text = "A preset or a TOML file to start from; this file's keys replace its keys."
    return {"type": "string", "description": text, "examples": preset_names()}


def _add_plugins(table: dict[str, Any], slot: Slot) -> None:
    """Name the plugins, and describe the options of whichever is named."""
    plugins = catalog.plugins(slot.kind)
    names = sorted({plugin.name for plugin in plugins})
    named = table["properties"][slot.key]
    named["anyOf"] = [{"enum": names}, {"pattern": "^[^@]+@[^@]+$"}]
    table["allOf"] = [_options_of(slot, plugin) for plugin in plugins if not plugin.error]


def _options_of(slot: Slot, plugin: catalog.Plugin) -> dict[str, Any]:
    condition: dict[str, Any] = {"properties": {slot.key: {"const": plugin.name}}}
    if plugin.name != slot.default:
        condition["required"] = [slot.key]
    options = {option.name: dict(_option(option)) for option in plugin.options}
    return {"if": condition, "then": {"properties": options}}


def _option(option: catalog.Option) -> Iterator[tuple[str, Any]]:
    yield "description", f"{option.help or option.name} ({option.type})"
    plain = option.type.partition(" ")[0]
    if plain in _JSON_TYPES and "|" not in option.type:
        yield "type", _JSON_TYPES[plain]
    if option.default is not None:
        yield "default", option.default
