"""The plugin API: listed, documented, typed, and versioned."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

import api_changes
import generate_api
import pluggy
import pytest

from unlearn_cli.api import API_VERSION

ROOT = Path(__file__).parents[1]
PAGE = """
# The plugin API

Version 1.2.5

### Row

One example.

```text
@dataclass(frozen=True)
class Row
    id: str
    kind: str = 'qa'
    size: int  # property
    def text(self, sep: str = ' ') -> str
```

### Hooks

What there is.

```text
class Hooks
    hook watch(self, event: Event) -> None
```

### Dataset

What a data set has.

```text
class Dataset(Protocol)
    def load(self, context: DataContext) -> Bundle
```

### check

A suite.

```text
def check(method: Any, *, seed: int = 0, by: int = <Signals.SIGINT: 2>) -> None
```
"""
IMPORT = re.compile(r"^ *from (unlearn_cli[\w.]*) import ([\w, ]+)$", re.MULTILINE)
ID, KIND = "    id: str\n", "    kind: str = 'qa'\n"


@pytest.mark.parametrize("name", generate_api.MODULES)
def test_every_public_name_says_what_it_is(name: str) -> None:
    """A docstring, or a string below a constant; and types on every argument of a function."""
    module = importlib.import_module(name)
    public = generate_api.public_names(module)

    assert public
    assert [n for n, value in public.items() if not generate_api.summary(module, n, value)] == []
    for function in filter(inspect.isfunction, public.values()):
        assert {*function.__annotations__} == {*inspect.signature(function).parameters, "return"}


def test_the_changelog_names_the_version() -> None:
    """The first version of the API that it speaks of, from the top, is the present one."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.findall(r"[Pp]lugin API (\d+\.\d+\.\d+)", changes)[:1] == [API_VERSION]


def need(change: tuple[str, str]) -> str:
    """Which number has to rise: none, the second or the first, found by trying versions."""
    assert PAGE.count(change[0]) == 1
    after = PAGE.replace(*change)
    versions = {"none": "1.2.5", "third": "1.2.6", "second": "1.3.0", "first": "2.0.0"}
    tried = {
        n: api_changes.unversioned(PAGE, after.replace("1.2.5", v)) for n, v in versions.items()
    }
    for refused in filter(None, tried.values()):
        assert "Raise API_VERSION" in refused
    return next(number for number, refused in tried.items() if not refused)


def test_words_change_freely() -> None:
    """They promise nothing to a program."""
    assert need(("One example.", "One row.")) == "none"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((KIND, f"{KIND}    more: int = 0\n"), id="a field with a default, at the end"),
        pytest.param(
            (KIND, f"{KIND}    more: int = 0  # keyword only\n"), id="a keyword with a default"
        ),
        pytest.param(("    size:", "    length: int  # property\n    size:"), id="a property"),
        pytest.param(("    size:", "    def more(self) -> str\n    size:"), id="a function"),
        pytest.param(
            ("sep: str = ' '", "sep: str = ' ', end: str = ''"), id="an optional argument"
        ),
        pytest.param(("seed: int = 0", "fast: bool = False, seed: int = 0"), id="a keyword"),
        pytest.param(("event: Event", "event: Event, run: RunFolder"), id="an argument of a hook"),
        pytest.param(
            ("    hook watch", "    hook end(self) -> None\n    hook watch"), id="another hook"
        ),
        pytest.param(
            ("### check", "### try\n\n```text\ndef attempt() -> None\n```\n\n### check"),
            id="a name",
        ),
    ],
)
def test_what_is_added_needs_a_second_number(change: tuple[str, str]) -> None:
    """Every plugin that worked still does."""
    assert need(change) == "second"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("### check", "### attempt"), id="a name is gone"),
        pytest.param((ID, ""), id="a field is gone"),
        pytest.param(("kind: str = 'qa'", "kind: str"), id="a default is gone"),
        pytest.param(("kind: str = 'qa'", "kind: str = 'chat'"), id="another default"),
        pytest.param(("kind: str = 'qa'", "kind: int = 'qa'"), id="another type"),
        pytest.param((ID, f"{ID}    more: int\n"), id="a field that must be given"),
        pytest.param((KIND, f"    more: int = 0\n{KIND}"), id="a field in front of another"),
        pytest.param((ID + KIND, KIND + ID), id="another order"),
        pytest.param((ID, "    id: str  # keyword only\n"), id="a field by keyword only"),
        pytest.param((KIND, f"{KIND}    more: int  # keyword only\n"), id="a keyword to be given"),
        pytest.param(("(frozen=True)", ""), id="no longer frozen"),
        pytest.param(("@dataclass(frozen=True)\n", ""), id="no longer a dataclass"),
        pytest.param(("class Row", "class Row(Event)"), id="another base"),
        pytest.param(("    size: int  # property\n", ""), id="a property is gone"),
        pytest.param(("sep: str = ' '", ""), id="an argument of a function is gone"),
        pytest.param(("sep: str = ' '", "sep: str"), id="a default of a function is gone"),
        pytest.param(("-> str", "-> bytes"), id="another result"),
        pytest.param(("method: Any", "plugin: Any"), id="an argument is renamed"),
        pytest.param(("method: Any,", "method: Any, spec: Any,"), id="an argument to be given"),
        pytest.param(("seed: int = 0, ", ""), id="a keyword is gone"),
        pytest.param(("*, seed", "*, fast: bool, seed"), id="a keyword to be given by callers"),
        pytest.param(("event: Event", ""), id="an argument of a hook is gone"),
        pytest.param(
            ("event: Event) -> None", "event: Event) -> None  # firstresult"), id="firstresult"
        ),
        pytest.param(("    hook watch", "    hook look"), id="a hook is renamed"),
        pytest.param(
            ("    def load", "    def size(self) -> int\n    def load"), id="asks for more"
        ),
        pytest.param(("context: DataContext", "context: DataContext, seed: int"), id="gives more"),
    ],
)
def test_what_may_break_a_plugin_needs_a_first_number(change: tuple[str, str]) -> None:
    """A plugin that made, called, had or was called with what stood there may fail."""
    assert need(change) == "first"


def test_the_page_is_no_older_than_before() -> None:
    """A version that falls is none."""
    after = PAGE.replace("class Row", "class Row(Event)").replace("1.2.5", "0.9.0")

    assert "first number" in api_changes.unversioned(PAGE, after)


def test_the_page_tells_how_a_class_is_made() -> None:
    """What is compared: frozen, by keyword only, a default, and how a hook is called."""

    @dataclass
    class Loose:
        a: int
        b: int = field(default=2, kw_only=True)

    @dataclass(frozen=True)
    class Firm:
        a: int = 1

    class Called:
        @pluggy.HookspecMarker("unlearn")(firstresult=True)
        def first(self, a: int) -> int:
            return a

    told = {
        cls.__name__: generate_api.signature(cls.__name__, cls) for cls in (Loose, Firm, Called)
    }

    assert told["Loose"] == "@dataclass\nclass Loose\n    a: int\n    b: int = 2  # keyword only"
    assert told["Firm"] == "@dataclass(frozen=True)\nclass Firm\n    a: int = 1"
    assert told["Called"].endswith("hook first(self, a: int) -> int  # firstresult")


def test_every_line_of_the_page_can_be_compared() -> None:
    """No entry of the page breaks itself, and each breaks once it is gone or empty."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    for entry in dict(api_changes.ENTRY.findall(page)).values():
        for line in entry.splitlines()[1:]:
            less = entry.replace(f"{line}\n", "", 1)
            assert api_changes.breach(entry, less), f"{line} of {entry}"
        assert api_changes.breach(entry, entry) == ""
        assert api_changes.breach(entry, None)


def test_what_examples_import_stands_on_the_page() -> None:
    """Of the tutorial, the examples of hooks, and what `unlearn new-plugin` writes."""
    sources = [
        (ROOT / "docs" / "writing-plugins.md").read_text(encoding="utf-8"),
        (ROOT / "docs" / "reference" / "plugins.md").read_text(encoding="utf-8"),
        *(file.read_text("utf-8") for file in (ROOT / "docs" / "example-plugin").rglob("*.py")),
    ]
    found = [IMPORT.findall(source) for source in sources]
    imported = {
        (m, name.strip()) for each in found for m, names in each for name in names.split(",")
    }
    promised = {
        (module, name)
        for module in generate_api.MODULES
        for name in generate_api.public_names(importlib.import_module(module))
    }

    assert imported - promised == set()
    assert ("unlearn_cli.runs", "RunFolder") in imported


def test_the_snapshot_holds_every_signature() -> None:
    """What the comparison reads of the page is every name, and its whole signature."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    entries = dict(api_changes.ENTRY.findall(page))
    expected = {
        name: generate_api.signature(name, value) + "\n"
        for module in generate_api.MODULES
        for name, value in generate_api.public_names(importlib.import_module(module)).items()
    }

    assert entries == expected
