"""Specs on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., str]
"""`write(text, name="spec.toml")` returns the path of the file, relative to the current folder."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into a fresh current folder."""
    monkeypatch.chdir(tmp_path)

    def to_disk(text: str, name: str = "spec.toml") -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return to_disk


@pytest.fixture
def minimal() -> str:
    """The shortest spec that runs."""
    return """\
name = "small"
[model]
path = "builtin:tiny"
[data]
dataset = "tofu"
[method]
name = "simnpo"
"""
