"""A distribution to start a plugin from: made of `templates/`, written whole or not at all."""

from __future__ import annotations

import keyword
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from unlearn_cli import catalog
from unlearn_cli.catalog import Kind
from unlearn_cli.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates"
TITLES: Mapping[Kind, str] = {"dataset": "data set"}
LONGEST = 24
"""Characters of a name: with more, lines of the written files would be too long."""


def render(name: str, kind: Kind, *, hooks: bool) -> dict[str, str]:
    """Path in the distribution -> text, for a name that `check_name` lets pass."""
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - it writes Python and TOML, no HTML
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    title = TITLES.get(kind, kind)
    known = {
        "name": name,
        "dashed": name.replace("_", "-"),
        "cls": class_name(name, kind),
        "kind": kind,
        "title": title,
        "a_title": f"{'An' if title[0] in 'aeiou' else 'A'} {title}",
        "suite": f"check_{kind}",
        "hooks": hooks,
    }
    package, tests = f"unlearn_{name}", "tests"
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"try-{known['dashed']}.toml": "try.toml",
        f"{package}/__init__.py": "package.py",
        f"{package}/{name}.py": f"{kind}.py",
        f"{tests}/test_{name}.py": f"test_{kind}.py",
    }
    if hooks:
        sources[f"{package}/hooks.py"] = "hooks.py"
        sources[f"{tests}/test_{name}_hooks.py"] = "test_hooks.py"
    files = {
        path: environment.get_template(f"{source}.j2").render(known)
        for path, source in sources.items()
    }
    return files | {f"{package}/py.typed": ""}


def class_name(name: str, kind: Kind) -> str:
    """`my_algo` -> `MyAlgo`; with the kind behind it where the word means something else."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    texts = [(TEMPLATES / f"{file}.py.j2").read_text("utf-8") for file in (kind, f"test_{kind}")]
    taken = keyword.iskeyword(camel) or any(re.search(rf"\b{camel}\b", text) for text in texts)
    return camel + kind.capitalize() if taken else camel


def check_name(name: str, kind: Kind) -> None:
    """Raise UsageError where a plugin of this kind cannot have the name."""
    if not _possible(name):
        likely = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
        rule = f"take letters a to z, digits and _, at most {LONGEST}, and no Python keyword"
        hint = f"try {likely}" if _possible(likely) else rule
        raise UsageError("cannot be the name of a plugin", where=repr(name), hint=hint)
    for plugin in catalog.plugins(kind):
        if plugin.name == name:
            what = f"{plugin.distribution} has a {kind} of this name"
            raise UsageError(what, where=repr(name), hint="choose another")
    if find_spec(f"unlearn_{name}"):
        what = f"there is a package unlearn_{name} already"
        raise UsageError(what, where=repr(name), hint="choose another")


def _possible(name: str) -> bool:
    """Whether a module, a TOML key and an entry point may have the name, beside `hooks.py`."""
    fits = re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) is not None and len(name) <= LONGEST
    return fits and not keyword.iskeyword(name) and name != "hooks"


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files into a folder that is missing or empty.

    Raises:
        UsageError: it is a file or not empty, or cannot be written; then nothing is left of it.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            hint = "name another with --output"
            raise UsageError("is not empty", where=str(folder), hint=hint)
        _write(folder, files)
    except NotADirectoryError:
        raise UsageError("is a file, not a folder", where=str(folder)) from None
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(folder)) from error


def _write(folder: Path, files: Mapping[str, str]) -> None:
    there = folder.exists()
    try:
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        if there:
            folder.mkdir(exist_ok=True)
        raise
