"""The arrows between the rooms, read from the imports; and what starting the command imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "unlearn_cli"
PLUGINS = ROOT / "plugins" / "unlearn_plugins"

TORCH_ROOMS = (
    "unlearn_cli.engine",
    "unlearn_cli.api.scores",
    "unlearn_cli.api.hidden",
    "unlearn_cli.testing",
)
PRINT_ROOMS = ("unlearn_cli.cli", "unlearn_cli.console")
HEAVY = ("torch", "transformers", "datasets", "accelerate", "scipy", "rouge_score")
NOT_AT_START = {*HEAVY, "pydantic", "rich", "numpy", "jinja2", "unlearn_plugins"}


@dataclass(frozen=True)
class Import:
    """One imported module, and where."""

    importer: str
    module: str
    late: bool
    """Inside a function, so not executed when the importer is imported."""

    def __str__(self) -> str:
        return f"{self.importer} -> {self.module}"


def within(module: str, *rooms: str) -> bool:
    """Whether a module is one of the rooms or stands in one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def module_name(file: Path) -> str:
    base = PLUGINS.parent if PLUGINS in file.parents else ROOT
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def modules_named(node: ast.stmt | ast.expr) -> list[str]:
    """Modules that an import statement names: `from a import b` may mean `a.b`, so both count."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_below(node: ast.AST, importer: str, late: bool = False) -> Iterator[Import]:
    """All imports that are executed; those for the type checker alone are none."""
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            named = modules_named(child) if isinstance(child, ast.stmt) else []
            yield from (Import(importer, module, late) for module in named)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_below(child, importer, late or inside)


def parsed(folder: Path) -> dict[str, ast.Module]:
    return {module_name(f): ast.parse(f.read_bytes()) for f in sorted(folder.rglob("*.py"))}


def imports_of(folder: Path) -> list[Import]:
    return [found for name, tree in parsed(folder).items() for found in imports_below(tree, name)]


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """Plain, from and late imports are found; those for the type checker are not."""
    text = "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from d import e\n"

    found = [(i.module, i.late) for i in imports_below(ast.parse(text), "x")]

    assert found == [("a.b", False), ("d", True), ("d.e", True)]


def test_plugins_reach_the_api_and_nothing_else() -> None:
    """Our plugins could be anybody's: they import `unlearn_cli.api`, errors, and each other."""
    reached = [i for i in imports_of(PLUGINS) if within(i.module, "unlearn_cli")]
    allowed = ("unlearn_cli.api", "unlearn_cli.errors")

    forbidden = [i for i in reached if not within(i.module, *allowed)]
    assert [str(i) for i in forbidden] == []
    assert reached


def test_the_tool_knows_no_plugin() -> None:
    """Nothing in `unlearn_cli` imports `unlearn_plugins`: ours come through the same door."""
    found = [str(i) for i in imports_of(TOOL) if within(i.module, "unlearn_plugins")]

    assert found == []


def test_only_the_console_imports_rich() -> None:
    """Rendering stands in one package."""
    importers = {i.importer for i in imports_of(TOOL) if within(i.module, "rich")}

    assert importers
    assert all(within(importer, "unlearn_cli.console") for importer in importers)


def test_only_the_engine_imports_torch() -> None:
    """Beside the engine: `api.scores` and `api.hidden`, which plugins use, and `testing`."""
    users = {i.importer for i in imports_of(TOOL) if within(i.module, "torch")}

    assert {user for user in users if not within(user, *TORCH_ROOMS)} == set()
    assert "unlearn_cli.api.scores" in users


def test_the_engine_is_reached_late() -> None:
    """Outside the engine and `testing` it is imported inside functions only."""
    outside = [i for i in imports_of(TOOL) if not within(i.importer, *TORCH_ROOMS)]
    early = [i for i in outside if within(i.module, "unlearn_cli.engine") and not i.late]

    assert [str(i) for i in early] == []


def test_commands_that_run_a_model_start_fast() -> None:
    """What of the engine imports transformers, they import within `heavy_imports`."""
    heavy = {f"unlearn_cli.engine.{name}" for name in ("run", "dry_run", "measure")}
    imported, within_it = [], []
    for tree in parsed(TOOL / "cli").values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in heavy:
                imported.append(node)
            elif isinstance(node, ast.With) and "heavy_imports()" in map(
                ast.unparse, (item.context_expr for item in node.items)
            ):
                within_it += node.body
    assert len(imported) >= 5
    assert [ast.unparse(node) for node in imported if node not in within_it] == []


def test_heavy_libraries_are_imported_late_outside_the_engine() -> None:
    """Reading a spec, listing and reporting start without them."""
    outside = [i for i in imports_of(TOOL) if not within(i.importer, *TORCH_ROOMS)]
    early = [i for i in outside if within(i.module, *HEAVY) and not i.late]

    assert [str(i) for i in early] == []


def test_the_engine_knows_no_terminal() -> None:
    """The engine emits events: it imports neither click, the console nor the commands."""
    engine = [i for i in imports_of(TOOL) if within(i.importer, "unlearn_cli.engine")]
    terminal = ("click", "rich", "unlearn_cli.cli", "unlearn_cli.console")

    assert [str(i) for i in engine if within(i.module, *terminal)] == []
    assert engine


CLOCK = ("time", "time_ns", "now", "utcnow", "today", "st_mtime", "st_mtime_ns", "getmtime")


@pytest.mark.parametrize("folder", [TOOL, PLUGINS], ids=lambda folder: folder.name)
def test_nothing_asks_the_clock_what_came_first(folder: Path) -> None:
    """A clock may be set back in the middle of a run. One function reads it, to write a time down,
    and no file is told from another by its age; durations come from a clock that only goes on."""
    asked = [
        f"{name}: {node.attr}"
        for name, tree in parsed(folder).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in CLOCK
    ]

    assert asked == (["unlearn_cli.files: now"] if folder == TOOL else [])


@pytest.mark.parametrize("folder", [TOOL, PLUGINS], ids=lambda folder: folder.name)
def test_only_the_commands_and_the_console_print(folder: Path) -> None:
    """Everywhere else, what is to be said is an event or an error."""
    prints = {
        name
        for name, tree in parsed(folder).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo"}
    }

    assert {name for name in prints if not within(name, *PRINT_ROOMS)} == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list-methods"],
        ["list-datasets"],
        ["list-evaluators"],
        ["list-metrics", "--json"],
        ["show", "npo"],
        ["new-plugin", "--help"],
    ],
    ids=" ".join,
)
def test_the_command_starts_light(arguments: list[str]) -> None:
    """Help and listings import neither torch nor any other heavy library, nor a plugin."""
    code = (
        "import json, sys\n"
        "from unlearn_cli.cli import main\n"
        "try:\n    main(json.loads(sys.argv[1]))\n"
        "except SystemExit as left:\n"
        "    assert left.code == 0\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {module.partition(".")[0] for module in json.loads(done.stderr)}

    assert done.stdout
    assert loaded & NOT_AT_START == set()
    assert "click" in loaded
