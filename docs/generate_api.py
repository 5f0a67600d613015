"""The page of the plugin API: every public name with its signature; and when its version is stale.

The page that is checked in is the snapshot to which the code is compared. Where signatures differ
and `API_VERSION` does not say so, no new page is written.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from unlearn_cli.api import API_VERSION

MODULES = (
    "unlearn_cli.api",
    "unlearn_cli.api.scores",
    "unlearn_cli.api.hidden",
    "unlearn_cli.hooks",
    "unlearn_cli.events",
    "unlearn_cli.errors",
    "unlearn_cli.testing",
)
RULE = """\
Plugins rely on what stands here, and on nothing else of `unlearn_cli`. The version follows
[Semantic Versioning](https://semver.org): the first number rises where something is gone, renamed
or means something else, so that a plugin may break; the second where something is added, an
optional argument too; the third where a fault is repaired. `unlearn_cli.api.API_VERSION` has it,
`CHANGELOG.md` says what changed, and a change of a signature without a new
version fails the checks."""
VERSION = re.compile(r"^Version (\d+)\.(\d+)\.(\d+)$", re.MULTILINE)
ENTRY = re.compile(r"^### (\S+)$.*?^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUALIFIER = re.compile(r"\b(?:\w+\.)+(?=\w)")


class _Verbatim:
    """An annotation as it stands in the source, which `inspect` would put in quotes."""

    def __init__(self, annotation: Any) -> None:
        self.text = annotation if isinstance(annotation, str) else _plain(annotation)

    def __repr__(self) -> str:
        return self.text


def blocks() -> Iterator[str]:
    """The page, but for its title."""
    yield f"Version {API_VERSION}"
    yield RULE
    for name in MODULES:
        module = importlib.import_module(name)
        yield f"## {name}"
        for public, value in public_names(module).items():
            yield f"### {public}"
            yield summary(module, public, value)
            yield f"```text\n{signature(public, value)}\n```"


def public_names(module: ModuleType) -> dict[str, Any]:
    """What `__all__` names; without one, the classes that the module defines."""
    own = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    names = getattr(module, "__all__", own)
    return {name: getattr(module, name) for name in names if name != "API_VERSION"}


def summary(module: ModuleType, name: str, value: Any) -> str:
    """The first paragraph of a docstring, as one line; of a constant, what stands below it."""
    documented = inspect.isclass(value) or inspect.isfunction(value)
    doc = inspect.getdoc(value) if documented else _below(module, name)
    return " ".join((doc or "").partition("\n\n")[0].split())


def _below(module: ModuleType, name: str) -> str:
    """The string below the assignment of a name, in the module or in one that it imports from."""
    tree = ast.parse(inspect.getsource(module))
    for node, behind in zip(tree.body, tree.body[1:], strict=False):
        match node, behind:
            case ast.Assign(targets=[ast.Name(id=found)]), ast.Expr(ast.Constant(str(text))):
                if found == name:
                    return text
            case ast.ImportFrom(module=str(source)), _:
                if name in [alias.name for alias in node.names]:
                    return _below(importlib.import_module(source), name)
    return ""


def signature(name: str, value: Any) -> str:
    """A name as a plugin sees it: a function's arguments, a class's fields and functions."""
    if inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base.__name__ != "object"]
        head = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
        return "\n".join([head, *(f"    {line}" for line in _members(value))])
    if inspect.isfunction(value):
        return f"def {name}{_arguments(value)}"
    plain = isinstance(value, int | str) or type(value).__module__ in ("typing", "collections.abc")
    return f"{name} = {_plain(value)}" if plain else f"{name}: {type(value).__name__}"


def _members(cls: type) -> Iterator[str]:
    annotations = inspect.get_annotations(cls)
    for name, annotation in annotations.items():
        if not name.startswith("_"):
            yield f"{name}: {_Verbatim(annotation)!r}{_default(cls, name)}"
    for name, member in vars(cls).items():
        if name not in annotations and (not name.startswith("_") or name == "__init__"):
            yield from _member(cls, name, member)


def _member(cls: type, name: str, member: Any) -> Iterator[str]:
    getter = getattr(member, "fget", getattr(member, "func", None))
    function = getattr(member, "__func__", member)
    if getter is not None:
        yield f"{name}: {inspect.get_annotations(getter).get('return')}  # property"
    elif inspect.isfunction(function) and not (name == "__init__" and hasattr(cls, "_is_protocol")):
        if not (name == "__init__" and hasattr(cls, "__dataclass_fields__")):
            yield f"def {name}{_arguments(function)}"
    elif isinstance(member, int | str):
        yield f"{name} = {member!r}"


def _default(cls: type, name: str) -> str:
    field = getattr(cls, "__dataclass_fields__", {}).get(name)
    if field is None or name not in inspect.signature(cls).parameters:
        return ""
    default = inspect.signature(cls).parameters[name].default
    if inspect.isfunction(default):  # its repr has an address
        return f" = {default.__name__}"
    return "" if default is inspect.Parameter.empty else f" = {default!r}"


def _arguments(function: Any) -> str:
    """`(row: Row) -> float`, annotations as in the source."""
    found = inspect.signature(function)
    parameters = [
        one if one.annotation is one.empty else one.replace(annotation=_Verbatim(one.annotation))
        for one in found.parameters.values()
    ]
    returns = found.return_annotation
    told = returns if returns is inspect.Signature.empty else _Verbatim(returns)
    return str(inspect.Signature(parameters, return_annotation=told))


def _plain(value: Any) -> str:
    return QUALIFIER.sub("", value.__name__ if inspect.isclass(value) else repr(value))


def unversioned(before: str, after: str) -> str:
    """Why the page `after` must not take the place of `before`; empty where it may.

    Signatures that differ need a higher version, names that are gone a higher first number.
    """
    old, new = dict(ENTRY.findall(before)), dict(ENTRY.findall(after))
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if not old or not changed:
        return ""
    was, now = _version(before), _version(after)
    gone = [name for name in changed if name not in new]
    if now <= was:
        what = f"the plugin API changed ({', '.join(changed)}) and its version did not"
    elif gone and now[0] == was[0]:
        what = f"{', '.join(gone)} is gone from the plugin API, which needs a new first number"
    else:
        return ""
    return f"{what}: raise API_VERSION in unlearn_cli/api, and say so in CHANGELOG.md"


def _version(page: str) -> tuple[int, ...]:
    found = VERSION.search(page)
    assert found is not None, "the page names no version"
    return tuple(map(int, found.groups()))
