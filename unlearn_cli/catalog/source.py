"""What the source of a plugin says: found and read without importing it or its packages."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unlearn_cli.catalog import hints
from unlearn_cli.catalog.model import Option

_API_METHOD = Path(__file__).parents[1] / "api" / "method.py"


class Unreadable(Exception):  # noqa: N818 - reported as the plugin's `error`, not raised further
    """Why the source cannot be found or read."""


def module_file(module: str) -> Path:
    """The file of a module; finds the top-level package and walks down its folders.

    No `__init__` runs: `find_spec("a.b")` would import `a`, so each level is searched on its own.
    """
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
        for part in rest:
            spec = _below(spec, part)
    except (ImportError, ValueError) as error:
        raise Unreadable(f"module {module} cannot be found: {error}") from error
    if spec is None or spec.origin is None:
        raise Unreadable(f"there is no module {module}")
    return Path(spec.origin)


def _below(package: ModuleSpec | None, part: str) -> ModuleSpec | None:
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(f"{package.name}.{part}", list(package.submodule_search_locations))


@dataclass(frozen=True)
class Source:
    """One module, parsed."""

    text: str
    tree: ast.Module

    @classmethod
    def read(cls, file: Path) -> Source:
        """Parse a file; raises `Unreadable` where it is not Python."""
        try:
            text = file.read_text(encoding="utf-8")
            return cls(text, ast.parse(text))
        except (OSError, SyntaxError, ValueError) as error:
            raise Unreadable(f"{file} cannot be read: {error}") from error

    def constants(self) -> dict[str, ast.expr]:
        """Names of the module that are assigned once, for `beta: Positive = DEFAULT`."""
        assigned = (node for node in self.tree.body if isinstance(node, ast.Assign))
        pairs = ((node.targets[0], node.value) for node in assigned)
        return {target.id: value for target, value in pairs if isinstance(target, ast.Name)}

    def find_class(self, name: str) -> ast.ClassDef | None:
        """The class of that name at the top of the module."""
        classes = (node for node in self.tree.body if isinstance(node, ast.ClassDef))
        return next((node for node in classes if node.name == name), None)

    def lineage(self, node: ast.ClassDef) -> tuple[list[ast.ClassDef], bool]:
        """The class behind its bases of this module, and whether those are all its bases."""
        lineage, complete = [], True
        for base in node.bases:
            found = self.find_class(ast.unparse(base))
            above, known = self.lineage(found) if found else ([], _has_no_fields(base))
            lineage += above
            complete &= known
        return [*lineage, node], complete

    def options(self, lineage: Iterable[ast.ClassDef]) -> tuple[Option, ...]:
        """The dataclass fields of a lineage, a later definition replacing an earlier."""
        found = {option.name: option for node in lineage for option in self._own_options(node)}
        return tuple(found.values())

    def _own_options(self, node: ast.ClassDef) -> Iterator[Option]:
        constants = self.constants()
        for statement, follower in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and _is_field(statement):
                help_text = _docstring_below(follower) or self._comment_behind(statement)
                yield _option(statement, constants, help_text)

    def _comment_behind(self, node: ast.AnnAssign) -> str:
        line = self.text.splitlines()[(node.end_lineno or node.lineno) - 1].encode()
        behind = line[node.end_col_offset or 0 :].decode().strip()
        return behind.lstrip("# ") if behind.startswith("#") else ""


def requires(lineage: Iterable[ast.ClassDef]) -> tuple[str, ...]:
    """Parameters of `forget_loss` after `self`: what the method requires."""
    functions = [
        item for node in lineage for item in node.body if isinstance(item, ast.FunctionDef)
    ]
    losses = [item.args.args for item in functions if item.name == "forget_loss"]
    return tuple(argument.arg for argument in losses[-1][1:]) if losses else ()


def method_defaults(lineage: Iterable[ast.ClassDef]) -> dict[str, Any]:
    """`defaults = MethodDefaults(...)` of a class, over what `MethodDefaults` itself sets."""
    shared = {option.name: option.default for option in shared_options()}
    for item in (item for node in lineage for item in node.body):
        match item:
            case ast.AnnAssign(target=ast.Name(id="defaults"), value=ast.Call() as call):
                shared |= _literal_keywords(call, tuple(shared))
    return shared


def class_values(lineage: Iterable[ast.ClassDef], names: Sequence[str]) -> dict[str, Any]:
    """Class attributes of these names that are literals; `Unreadable` where one is none."""
    found = {}
    for item in (item for node in lineage for item in node.body):
        match item:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                if name in names:
                    try:
                        found[name] = ast.literal_eval(value)
                    except ValueError as error:
                        raise Unreadable(f"{name} is not a literal") from error
    return found


def shared_options() -> tuple[Option, ...]:
    """The options that every method shares, from the source of `api.MethodDefaults`."""
    source = Source.read(_API_METHOD)
    node = source.find_class("MethodDefaults")
    return source.options([node]) if node else ()


def paper(doc: str) -> str:
    """What stands behind `Source:` in a docstring, joined to one line."""
    paragraphs = ("\n" + doc).split("\nSource:")
    return " ".join(paragraphs[1].split("\n\n")[0].split()) if len(paragraphs) > 1 else ""


def docstring(node: ast.ClassDef) -> str:
    """The docstring with its indentation taken off."""
    return inspect.cleandoc(ast.get_docstring(node) or "")


def _literal_keywords(call: ast.Call, names: tuple[str, ...]) -> dict[str, Any]:
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    arguments = dict(zip(names, call.args, strict=False)) | named
    try:
        return {name: ast.literal_eval(value) for name, value in arguments.items()}
    except ValueError as error:
        raise Unreadable(f"the arguments of {ast.unparse(call)} are not literals") from error


def _has_no_fields(base: ast.expr) -> bool:
    return ast.unparse(base).split("[")[0].split(".")[-1] in {
        "object",
        "Protocol",
        "Generic",
        "ABC",
    }


def _is_field(node: ast.AnnAssign) -> bool:
    """Whether a dataclass makes an argument of it."""
    initialised = not any(
        keyword.arg == "init" and ast.unparse(keyword.value) == "False"
        for keyword in _field_arguments(node.value)
    )
    return initialised and not hints.mentions(node.annotation, "ClassVar")


def _field_arguments(value: ast.expr | None) -> list[ast.keyword]:
    """The arguments of `field(...)`; none where the value is anything else."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in {"field", "dataclasses.field"}:
        return value.keywords
    return []


def _docstring_below(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return " ".join(text.split())
    return ""


class _Inline(ast.NodeTransformer):
    """Writes the constants of a module out where they are named."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def _option(node: ast.AnnAssign, constants: dict[str, ast.expr], help_text: str) -> Option:
    annotation: ast.expr = _Inline(constants).visit(node.annotation)
    default = _default(node.value)
    return Option(
        name=ast.unparse(node.target),
        type=hints.describe(annotation),
        annotation=ast.unparse(annotation),
        required=default is None,
        default=_value(default, constants),
        default_text=ast.unparse(default) if default else "",
        help=help_text,
        location=hints.mentions(annotation, "Location"),
        names=hints.named(annotation),
    )


def _default(value: ast.expr | None) -> ast.expr | None:
    """The default as an expression; None where there is none."""
    arguments = {keyword.arg: keyword.value for keyword in _field_arguments(value)}
    if "default_factory" in arguments:
        return ast.Call(func=arguments["default_factory"], args=[], keywords=[])
    return arguments.get("default") if arguments else value


def _value(default: ast.expr | None, constants: dict[str, ast.expr]) -> Any:
    """The default's value where it is a literal, a constant of the module or an empty container."""
    empty: dict[str, Any] = {"dict()": {}, "list()": [], "tuple()": ()}
    if default is None or ast.unparse(default) in empty:
        return empty.get(ast.unparse(default)) if default else None
    try:
        return ast.literal_eval(_Inline(constants).visit(default))
    except ValueError:
        return None
