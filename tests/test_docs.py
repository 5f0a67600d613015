"""The documentation is true: reference pages fresh, commands run, links and files there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unlearn_cli.spec import load_spec

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "own-data.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
CODE_PATH = re.compile(r"`((?:unlearn_cli|plugins|tests|docs)/[\w./-]+|\w+\.(?:py|toml|txt))`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    file: str
    """The name behind the language: the reader is to make this file."""
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(block: Block) -> Iterator[tuple[list[str], list[str]]]:
    """Each `$ command` of a console block, and the lines of output below it."""
    for part in block.text.split("$ ")[1:]:
        command, *output = part.strip().splitlines()
        yield shlex.split(command), output


def unlearn(arguments: list[str], folder: Path) -> str:
    """Everything that the command prints, on one line."""
    done = subprocess.run(
        [sys.executable, "-m", "unlearn_cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_reference_pages_are_what_the_code_says() -> None:
    """Writing them again would change nothing; if it would: `nox -s write_docs`."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Its files are written, its commands run in order, and each prints the lines it shows."""
    found = blocks(TUTORIAL)
    for block in found:
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    shown = [pair for block in found if block.language == "console" for pair in commands(block)]

    assert len(shown) == 3
    for (program, *arguments), lines in shown:
        printed = unlearn(arguments, tmp_path)
        assert program == "unlearn"
        assert [line for line in lines if " ".join(line.split()) not in printed] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page is a file of the repository."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_architecture_names_files_that_exist() -> None:
    """Every path in `docs/architecture.md` is one of the repository, from the root or the tool."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(CODE_PATH.findall(text))
    places = (ROOT, ROOT / "unlearn_cli")

    assert len(named) > 20
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_the_spec_of_the_readme_can_run(tmp_path: Path) -> None:
    """The spec that a newcomer copies passes the check."""
    (spec,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "toml"]
    file = tmp_path / "spec.toml"
    file.write_text(spec, encoding="utf-8")

    assert load_spec(str(file)).method.name == "npo"


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    """What `.ci/run` executes stands word for word in the README."""
    *_, command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert command.endswith("nox")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
