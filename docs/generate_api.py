"""The page of the plugin API: every public name with its signature.

The page that is checked in is the snapshot to which the code is compared (`api_changes.py`). Where
signatures differ and `API_VERSION` does not say so, no new page is written.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from api_changes import KEYWORD_ONLY

from unlearn_cli.api import API_VERSION
from unlearn_cli.evaluations import Evaluation, Generated
from unlearn_cli.hooks import GROUP
from unlearn_cli.spec.tables import Spec

MODULES = (
    "unlearn_cli.api",
    "unlearn_cli.api.scores",
    "unlearn_cli.api.hidden",
    "unlearn_cli.hooks",
    "unlearn_cli.events",
    "unlearn_cli.errors",
    "unlearn_cli.testing",
    "unlearn_cli.spec.tables",
    "unlearn_cli.runs",
    "unlearn_cli.evaluations",
)
READ: dict[str, dict[str, tuple[str, ...]]] = {
    "unlearn_cli.spec.tables": {"Spec": tuple(Spec.model_fields)},
    "unlearn_cli.runs": {"RunFolder": ("folder", "manifest", "events", "evaluations")},
    "unlearn_cli.evaluations": {
        "Evaluation": tuple(field.name for field in dataclasses.fields(Evaluation)),
        "Generated": tuple(field.name for field in dataclasses.fields(Generated)),
    },
}
"""Module -> what hooks are given of it, and the parts of that which they may read."""
READING = {
    "unlearn_cli.spec.tables": "`change_spec` is given a spec, may read of it what is listed, and "
    "makes a changed copy by `model_copy`. Its tables have the keys of [the spec](spec.md) as "
    "attributes.",
    "unlearn_cli.runs": "`report_sections` is given a run, and may read of it what is listed.",
    "unlearn_cli.evaluations": "What `RunFolder.evaluations` returns, to be read.",
}
RULE = """\
Plugins rely on what stands here, and on nothing else of `unlearn_cli`. The version follows
[Semantic Versioning](https://semver.org): the first number rises where a plugin may break, because
a line of this page is gone or another, or means something else; the second where something is
added, an optional argument too; the third where a fault is repaired.
`unlearn_cli.api.API_VERSION` has it, `CHANGELOG.md` says what changed, and a change of a signature
without the version that it takes fails the checks."""
HOOK = f"{GROUP}_spec"
"""Where pluggy keeps what `hookspec` was told."""
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
        yield READING.get(name, "")
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
    names = READ.get(module.__name__) or getattr(module, "__all__", own)
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
    if inspect.isclass(value) and name in (read := READ.get(value.__module__, {})):
        return "\n".join([f"class {name}", *(f"    {_part(value, part)}" for part in read[name])])
    if inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base.__name__ != "object"]
        head = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
        return "\n".join([*_decorator(value), head, *(f"    {line}" for line in _members(value))])
    if inspect.isfunction(value):
        return f"def {name}{_arguments(value)}"
    plain = isinstance(value, int | str) or type(value).__module__ in ("typing", "collections.abc")
    return f"{name} = {_plain(value)}" if plain else f"{name}: {type(value).__name__}"


def _decorator(cls: type) -> Iterator[str]:
    if dataclasses.is_dataclass(cls):
        frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]  # no public name
        yield "@dataclass(frozen=True)" if frozen else "@dataclass"


def _part(cls: type, name: str) -> str:
    """A part that is read: its type, which is that of the argument where a class declares none."""
    if name in vars(cls) and name not in inspect.get_annotations(cls):
        return next(_member(cls, name, vars(cls)[name]))
    made = inspect.get_annotations(vars(cls).get("__init__", cls))
    declared = made | inspect.get_annotations(cls)
    return f"{name}: {_Verbatim(declared[name])!r}"


def _members(cls: type) -> Iterator[str]:
    annotations = inspect.get_annotations(cls)
    for name, annotation in annotations.items():
        if not name.startswith("_"):
            keyword = KEYWORD_ONLY if _keyword_only(cls, name) else ""
            yield f"{name}: {_Verbatim(annotation)!r}{_default(cls, name)}{keyword}"
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
            yield f"{_keyword(function)} {name}{_arguments(function)}{_options(function)}"
    elif isinstance(member, int | str):
        yield f"{name} = {member!r}"


def _keyword_only(cls: type, name: str) -> bool:
    return any(
        f.name == name and f.kw_only for f in getattr(cls, "__dataclass_fields__", {}).values()
    )


def _default(cls: type, name: str) -> str:
    field = getattr(cls, "__dataclass_fields__", {}).get(name)
    if field is None or name not in inspect.signature(cls).parameters:
        return ""
    default = inspect.signature(cls).parameters[name].default
    if inspect.isfunction(default):  # its repr has an address
        return f" = {default.__name__}"
    return "" if default is inspect.Parameter.empty else f" = {default!r}"


def _keyword(function: Any) -> str:
    return "hook" if hasattr(function, HOOK) else "def"


def _options(function: Any) -> str:
    """How a hook is called, where that is not as usual: `firstresult`."""
    options = [name for name, value in getattr(function, HOOK, {}).items() if value]
    return f"  # {', '.join(options)}" if options else ""


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
