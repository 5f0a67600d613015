"""Importing the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, sys
from unlearn_cli.cli.heavy import heavy_imports
{before}
try:
    with heavy_imports():
        kept = [[]]
        {within}
except ImportError:
    pass
print(any(found is kept for found in gc.get_objects()), gc.get_freeze_count() > 0, gc.isenabled())
"""


@pytest.mark.parametrize(
    ("before", "within", "searched", "frozen", "on"),
    [
        ("", "", False, True, True),
        ("", "raise ImportError", True, False, True),
        ("sys.modules['transformers'] = sys", "", True, False, True),
        ("gc.disable()", "", True, False, False),
    ],
    ids=["first", "failed", "later", "off"],
)
def test_what_was_imported_is_no_garbage(
    before: str, within: str, searched: bool, frozen: bool, on: bool
) -> None:
    """What is made while the engine is imported is not searched afterwards, unless transformers was
    there; and the search is as it was, also where an import failed or it had been turned off."""
    code = CODE.format(before=before, within=within)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(searched), str(frozen), str(on)]
