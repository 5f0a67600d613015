"""Finding plugins by name, importing one, and building it from options."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, get_type_hints

from unlearn_cli import __version__
from unlearn_cli.catalog import source
from unlearn_cli.catalog.check import did_you_mean
from unlearn_cli.catalog.model import KINDS, Kind, Plugin
from unlearn_cli.errors import FAULTS, PluginError, SpecError, UnlearnError, UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

OURS = "unlearn-cli"
"""The distribution of this tool, and of the plugins that come with it."""


def plugins(kind: Kind) -> list[Plugin]:
    """All plugins of a kind, sorted by name, the broken ones with their `error`. Imports none."""
    found = [_read(kind, entry) for entry in _entries(kind)]
    found.sort(key=lambda plugin: (plugin.name, plugin.distribution))
    return [_with_rivals(plugin, found) for plugin in found]


def find(kind: Kind, name: str) -> Plugin:
    """The plugin called `name`, or `name@distribution`; imports nothing.

    Raises:
        PluginError: there is none, or several distributions claim the name.
    """
    bare, _, distribution = name.partition("@")
    claims = [_read(kind, entry) for entry in _entries(kind) if entry.name == bare]
    if distribution:
        claims = [p for p in claims if _normal(p.distribution) == _normal(distribution)]
    if not claims:
        known = {entry.name for entry in _entries(kind)}
        raise PluginError(f"there is no {kind} {name!r}", hint=did_you_mean(bare, known))
    if len(claims) > 1:
        raise _claimed_twice(claims)
    return claims[0]


def load(kind: Kind, name: str) -> type[Any]:
    """Import the class of a plugin.

    Raises:
        PluginError: it is missing, contested or broken; names distribution, module and exception.
    """
    plugin = find(kind, name)
    if plugin.error:
        raise _broken(plugin, plugin.error)
    module, _, attribute = plugin.target.partition(":")
    try:
        loaded: type[Any] = getattr(importlib.import_module(module), attribute)
    except FAULTS as error:
        raise _broken(plugin, f"{type(error).__name__}: {error}") from error
    if not dataclasses.is_dataclass(loaded):
        raise _broken(plugin, f"{attribute} is not a dataclass")
    return loaded


def build(kind: Kind, name: str, options: Mapping[str, Any]) -> Any:
    """Make a plugin from options as they come out of TOML: strict types, finite numbers.

    Raises:
        PluginError: see `load`.
        SpecError: one problem for every option that is unknown, missing or does not fit.
    """
    return make(load(kind, name), options, f"{kind} {name}")


def make(cls: type[Any], options: Mapping[str, Any], where: str) -> Any:
    """Make an instance of a plugin's class, as `build` does; problems stand at `where.OPTION`."""
    checked = _validated(where, cls, options)
    try:
        return cls(**checked)
    except (ValueError, TypeError) as error:  # raised by the plugin's own __post_init__
        raise SpecError([UsageError(str(error), where=where)]) from error


def author(error: BaseException) -> str:
    """Distribution and version in whose code an exception arose: that of a plugin, or ours. A
    library's are put down to who called it."""
    owners = {"unlearn_cli": f"unlearn {__version__}"}
    for group in ("unlearn", *(f"unlearn.{kind}s" for kind in KINDS)):
        for entry in entry_points(group=group):
            if entry.dist and entry.dist.name != OURS:
                owners[_package(entry.module)] = f"{entry.dist.name} {entry.dist.version}"
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    packages = [_package(str(frame.f_globals.get("__name__"))) for frame in reversed(frames)]
    found = (owners[package] for package in packages if package in owners)
    return next(found, owners["unlearn_cli"])


def _package(module: str) -> str:
    return module.partition(".")[0]


def _entries(kind: Kind) -> Iterator[EntryPoint]:
    return iter(entry_points(group=f"unlearn.{kind}s"))


def _read(kind: Kind, entry: EntryPoint) -> Plugin:
    """What metadata and source say of an entry point."""
    plugin = Plugin(
        kind=kind,
        name=entry.name,
        target=entry.value.replace(" ", ""),
        distribution=entry.dist.name if entry.dist else "unknown",
        version=entry.dist.version if entry.dist else "",
    )
    try:
        return _with_source(plugin)
    except source.Unreadable as error:
        return dataclasses.replace(plugin, error=str(error))


def _with_source(plugin: Plugin) -> Plugin:
    module, _, name = plugin.target.partition(":")
    file = source.module_file(module)
    plugin = dataclasses.replace(plugin, file=file)
    try:
        text = source.Source.read(file)
        node = text.find_class(name)
        return dataclasses.replace(plugin, **_facts(plugin.kind, text, node, name))
    except source.Unreadable as error:
        return dataclasses.replace(plugin, error=str(error))


def _facts(kind: Kind, text: source.Source, node: ast.ClassDef | None, name: str) -> dict[str, Any]:
    """The fields of `Plugin` that come from the class."""
    if node is None:
        raise source.Unreadable(f"the module defines no class {name!r}")
    doc = source.docstring(node)
    lineage, closed = text.lineage(node)
    return {
        "summary": " ".join(doc.partition("\n\n")[0].split()),
        "doc": doc,
        "source": source.paper(doc),
        "options": text.options(lineage),
        "closed": closed,
        "requires": source.requires(lineage),
        "defaults": source.method_defaults(lineage) if kind == "method" else {},
        **(source.class_values(lineage, ("retains", "own_alternates")) if kind == "method" else {}),
    }


def _with_rivals(plugin: Plugin, all_found: list[Plugin]) -> Plugin:
    claims = [other for other in all_found if other.name == plugin.name]
    if len(claims) == 1 or plugin.error:
        return plugin
    return dataclasses.replace(plugin, error=_claimed_twice(claims).line())


def _claimed_twice(claims: list[Plugin]) -> PluginError:
    owners = " and ".join(plugin.distribution for plugin in claims)
    return PluginError(
        f"{claims[0].kind} {claims[0].name!r} is claimed by {owners}",
        hint=f"write {' or '.join(plugin.qualified for plugin in claims)}",
    )


def _broken(plugin: Plugin, why: str) -> PluginError:
    return PluginError(
        f"{plugin.kind} {plugin.name!r} of {plugin.distribution} {plugin.version} is broken: {why}",
        where=plugin.target.partition(":")[0],
        hint=f"repair or uninstall {plugin.distribution}",
    )


def _normal(distribution: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _validated(owner: str, cls: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    try:
        # JSON mode, because TOML has what JSON has: an array may be a tuple, a string a path.
        text = json.dumps(dict(options), default=str)
        return dict(_adapter(cls).validate_json(text))
    except ValidationError as error:
        problems = [_problem(owner, item) for item in error.errors()]
        raise SpecError(problems) from error


def _problem(owner: str, error: Mapping[str, Any]) -> UnlearnError:
    """One of pydantic's errors in our words."""
    where = ".".join([owner, *map(str, error["loc"][:1])])
    return UsageError(f"{error['msg']}, not {error['input']!r}", where=where)


def _adapter(cls: type[Any]) -> TypeAdapter[dict[str, Any]]:
    """A strict validator of the keyword arguments of a dataclass."""
    from pydantic import ConfigDict, TypeAdapter, with_config
    from typing_extensions import NotRequired, TypedDict

    hints = get_type_hints(cls, include_extras=True)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    keys = {f.name: hints[f.name] if _required(f) else NotRequired[hints[f.name]] for f in fields}
    arguments: Any = TypedDict("Options", keys)  # type: ignore[misc]  # keys known at run time only
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    strict: Any = with_config(config)(arguments)
    return TypeAdapter(strict)


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing
