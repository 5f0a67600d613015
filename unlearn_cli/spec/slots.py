"""The tables of a spec that name a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.tables import DataTable, EvaluateTable, MethodTable, PluginTable, Spec

if TYPE_CHECKING:
    from unlearn_cli.catalog import Kind


@dataclass(frozen=True)
class Slot:
    """A table that names a plugin and also takes the options of that plugin."""

    table: str
    key: str
    """The key that names the plugin."""
    kind: Kind
    """The kind of plugin, as the catalog calls it."""
    model: type[PluginTable]
    survives: frozenset[str]
    """Inherited keys that stay when the plugin is changed."""
    default: str | None = None
    """The plugin where the key is not given."""
    array: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are not options of the plugin."""
        return frozenset(self.model.model_fields)

    def tables(self, data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """The tables of this slot in a spec, each with its path."""
        found = data.get(self.table)
        if self.array and isinstance(found, list):
            yield from (
                ((self.table, index), item)
                for index, item in enumerate(found)
                if isinstance(item, dict)
            )
        elif not self.array and isinstance(found, dict):
            yield (self.table,), found


SLOTS = {
    "data": Slot(
        table="data",
        key="dataset",
        kind="dataset",
        model=DataTable,
        survives=frozenset(DataTable.model_fields),
        default="files",
    ),
    # gamma, alpha and retain were tuned for the old method: the new one brings its own defaults.
    "method": Slot(
        table="method", key="name", kind="method", model=MethodTable, survives=frozenset()
    ),
    "evaluate": Slot(
        table="evaluate",
        key="evaluator",
        kind="evaluator",
        model=EvaluateTable,
        survives=frozenset(EvaluateTable.model_fields),
        array=True,
    ),
}
TABLES = frozenset(Spec.model_fields) - {"name", "seed"}
