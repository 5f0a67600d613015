"""The plugin API: listed, documented, typed, and versioned."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import generate_api
import pytest

from unlearn_cli.api import API_VERSION

ROOT = Path(__file__).parents[1]
PAGE = """
# The plugin API

Version 1.2.0

### Row

One example.

```text
class Row
    id: str
```

### check

```text
def check(method: Any) -> None
```
"""


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


@pytest.mark.parametrize(
    ("change", "version", "says"),
    [
        (("One example.", "One row."), "1.2.0", ""),
        (("id: str", "id: str\n    kind: str"), "1.2.0", "changed (Row) and its version did not"),
        (("id: str", "id: str\n    kind: str"), "1.1.9", "changed (Row) and its version did not"),
        (("id: str", "id: str\n    kind: str"), "1.3.0", ""),
        (("### check", "### try"), "1.3.0", "check is gone"),
        (("### check", "### try"), "2.0.0", ""),
    ],
)
def test_a_change_of_a_signature_needs_a_version(
    change: tuple[str, str], version: str, says: str
) -> None:
    """Words may change freely; what is added or changed needs a higher version, what is gone a
    new first number."""
    after = PAGE.replace(*change).replace("1.2.0", version)
    found = generate_api.unversioned(PAGE, after)

    assert (says in found) if says else found == ""


def test_the_snapshot_holds_every_signature() -> None:
    """What the comparison reads of the page is every name, and its whole signature."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    entries = dict(generate_api.ENTRY.findall(page))
    expected = {
        name: generate_api.signature(name, value) + "\n"
        for module in generate_api.MODULES
        for name, value in generate_api.public_names(importlib.import_module(module)).items()
    }

    assert entries == expected
