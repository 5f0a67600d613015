"""What holds for plugins of every kind."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from unlearn_cli.catalog import make
from unlearn_cli.catalog.source import Source, docstring

_ALONE = """
import importlib, json, sys
told = json.load(sys.stdin)
sys.path[:] = told["path"]
cls = getattr(importlib.import_module(told["module"]), told["class"])
assert "torch" not in sys.modules, "importing its module imports torch: do that in a function"
"""
"""Begins the code of a new process: `cls` is the plugin's class, `told` what it was told."""


def check_plugin(plugin: Any) -> None:
    """Assert what lets the tool list a plugin and build it from a spec.

    1. Its class stands at the top of a module, is a frozen dataclass and has a docstring.
    2. Every option says what it means: a docstring under the field, or a comment behind it.
    3. Its options as TOML writes them make an equal instance.
    """
    cls = type(plugin)
    assert "." not in cls.__qualname__, f"{cls.__qualname__} must stand at the top of its module"
    assert dataclasses.is_dataclass(cls), f"{cls.__name__} is not a dataclass"
    assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"  # type: ignore[attr-defined]
    source = Source.read(Path(inspect.getfile(cls)))
    node = source.find_class(cls.__name__)
    assert node is not None, f"{cls.__name__} is not found in the source of its module"
    assert docstring(node), f"{cls.__name__} has no docstring"
    silent = [o.name for o in source.options(source.lineage(node)[0]) if not o.help]
    assert not silent, f"nothing says what {', '.join(silent)} means: put a docstring below"
    again = make(cls, as_toml(plugin), cls.__name__)
    assert again == plugin, f"its options as TOML has them make {again}, not {plugin}"


def check_light(plugin: Any) -> None:
    """Assert that importing the module of a plugin does not import torch, in a new process."""
    alone(plugin, "")


def alone(plugin: Any, code: str, *, hash_seed: str = "0", **told: Any) -> str:
    """What `code` prints in a process that imported the plugin's module and nothing before it.

    `hash_seed` is its PYTHONHASHSEED, which decides in what order it goes through a set.
    """
    cls = type(plugin)
    given = {"path": sys.path, "module": cls.__module__, "class": cls.__name__, **told}
    done = subprocess.run(  # noqa: S603 - this interpreter, and code of this package
        [sys.executable, "-c", _ALONE + code],
        input=json.dumps(given),
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr.strip().rpartition("\n")[2]
    return done.stdout


def as_toml(plugin: Any) -> dict[str, Any]:
    """The options that differ from their defaults, as they come out of TOML."""
    given = {
        field.name: getattr(plugin, field.name)
        for field in dataclasses.fields(plugin)
        if field.init and getattr(plugin, field.name) != _default(field)
    }
    plain: dict[str, Any] = json.loads(json.dumps(given, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return dict(value) if hasattr(value, "keys") else str(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
