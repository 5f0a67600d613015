"""The options of plugins in a spec: checked, and filled with their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from unlearn_cli.errors import PluginError
from unlearn_cli.spec.positions import KeyPath
from unlearn_cli.spec.sense import alternates_problem, retain_problem
from unlearn_cli.spec.slots import SLOTS, Slot
from unlearn_cli.spec.tree import Problem, lookup
from unlearn_cli.spec.validate import unknown_key_hint

if TYPE_CHECKING:
    from unlearn_cli.catalog import Kind, OptionProblem, Plugin


def plugin_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Plugins that are not there, and options that they do not take."""
    for slot in SLOTS.values():
        for path, table in slot.tables(data):
            yield from _table_problems(slot, path, table)
    yield from _best_problems(lookup(data, ("checkpoints", "best")))
    yield from _method_problems(data)


def plugins_of(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], Plugin]]:
    """Each table that names a plugin, with its path and its plugin. Raises PluginError."""
    from unlearn_cli import catalog

    for slot in SLOTS.values():
        for path, table in slot.tables(data):
            yield path, table, catalog.find(slot.kind, str(table.get(slot.key, slot.default)))


def fill_options(table: dict[str, Any], plugin: Plugin) -> None:
    """Write the defaults of a plugin into its table; None, which TOML has not, stays out."""
    for option in plugin.options:
        if option.default is not None:
            table.setdefault(option.name, _as_toml(option.default))
    for key, default in plugin.defaults.items():
        table.setdefault(key, default)


def _table_problems(slot: Slot, path: KeyPath, table: Mapping[str, Any]) -> Iterator[Problem]:
    from unlearn_cli import catalog

    name = table.get(slot.key, slot.default)
    if not isinstance(name, str) or not name:
        return  # the types of the spec say so already
    plugin = _find(slot.kind, name, (*path, slot.key))
    if isinstance(plugin, Problem):
        yield plugin
        return
    options = {key: value for key, value in table.items() if key not in slot.keys}
    for problem in catalog.check_options(plugin, options):
        yield _option_problem(slot, path, plugin, problem)
    for option in plugin.options:
        if option.names and option.name in options:
            yield from _name_problems((*path, option.name), option.names, options[option.name])


def _name_problems(path: KeyPath, kind: Kind, value: Any) -> Iterator[Problem]:
    """Names of plugins that are not there: alone, in an array, or as keys of their options."""
    from unlearn_cli import catalog

    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _name_problems((*path, number), kind, item)
    elif isinstance(value, str):
        if isinstance(found := _find(kind, value, path), Problem):
            yield found
    elif isinstance(value, Mapping):
        for name, options in value.items():
            found = _find(kind, name, (*path, name))
            if isinstance(found, Problem):
                yield found
            elif isinstance(options, Mapping):
                for wrong in catalog.check_options(found, options):
                    yield Problem((*path, name, wrong.key), wrong.what, wrong.hint)


def _find(kind: Kind, name: str, path: KeyPath) -> Plugin | Problem:
    """The plugin that a key names, or what is wrong with it."""
    from unlearn_cli import catalog

    try:
        plugin = catalog.find(kind, name)
    except PluginError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return Problem(path, what, error.hint)
    if plugin.error:
        what = f"{plugin.kind} {name} of {plugin.distribution} is broken: {plugin.error}"
        return Problem(path, what, f"repair or uninstall {plugin.distribution}")
    return plugin


def _option_problem(slot: Slot, path: KeyPath, plugin: Plugin, found: OptionProblem) -> Problem:
    names = tuple(option.name for option in plugin.options)
    inner = (*path, found.key)
    if found.key in names:
        return Problem(inner, found.what, found.hint)
    # The catalog knows the plugin's options only; a slip may as well be meant for a key of ours.
    hint = unknown_key_hint(found.key, slot.model, names)
    return Problem(inner, f"neither a key of [{slot.table}] nor an option of {plugin.name}", hint)


def _best_problems(best: Any) -> Iterator[Problem]:
    """`checkpoints.best` is `metric` or `set.metric`."""
    if isinstance(best, str) and best:
        found = _find("metric", best.rpartition(".")[2], ("checkpoints", "best"))
        if isinstance(found, Problem):
            yield found


def _method_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Options that make no sense with the method."""
    name = lookup(data, ("method", "name"))
    plugin = _find("method", name, ()) if isinstance(name, str) and name else None
    if plugin is None or isinstance(plugin, Problem):
        return  # said already
    activations = any(parameter.endswith("hidden") for parameter in plugin.requires)
    retain = lookup(data, ("method", "retain")) or plugin.defaults.get("retain")
    if found := retain_problem(plugin.name, retain, activations, plugin.retains):
        yield Problem(("method", "retain"), *found)
    alternates = lookup(data, ("data", "alternates")) or "refusals"
    if found := alternates_problem(plugin.name, plugin.own_alternates, alternates):
        yield Problem(("data", "alternates"), *found)
    if lookup(data, ("method", "kl_positions")) == "all" and retain != "kl":
        hint = 'set retain = "kl", or leave kl_positions out'
        yield Problem(("method", "kl_positions"), f"says where retain = {retain!r} is taken", hint)


def _as_toml(value: Any) -> Any:
    """A literal of Python as TOML gives it back: arrays for tuples, so that it compares equal."""
    if isinstance(value, list | tuple):
        return [_as_toml(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_toml(item) for key, item in value.items()}
    return value
