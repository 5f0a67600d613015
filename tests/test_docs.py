"""The documentation is true: reference pages fresh, commands run, links and files there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomlkit

from unlearn_cli.spec import load_spec

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "example-plugin"  # what it says is run by tests/test_new_plugin.py
PAGES = [*sorted(ROOT.glob("*.md")), *sorted({*DOCS.rglob("*.md")} - {*EXAMPLE.rglob("*.md")})]
FENCE = re.compile(r"^(?:<!-- not run: ([^>]+) -->\n)?```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)
REASONS = (
    "continuous integration runs it",
    "installs packages",
    "deletes the cache",
    "needs a GPU",
    "needs the hub",
    "needs runs that take minutes",
)
"""How a mark may begin that keeps a block from being run."""
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
CODE_PATH = re.compile(r"`((?:unlearn_cli|plugins|tests|docs)/[\w./-]+|\w+\.(?:py|toml|txt))`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    skipped: str
    """Why it is not run; empty where it is."""
    language: str
    file: str
    """The name behind the language: the reader is to make this file."""
    text: str

    @property
    def runs(self) -> bool:
        """Whether a reader would type it into a terminal."""
        return self.language in ("sh", "console")


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, and the lines of output that it shows."""
    if block.language == "sh":
        yield block.text, []
        return
    for part in block.text.split("$ ")[1:]:
        command, *output = part.strip().splitlines()
        yield command, output


@dataclass(frozen=True)
class Shell:
    folder: Path
    run: Callable[[str], tuple[int, str]]
    """Exit code, and everything that is printed."""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a command in an empty folder, where `unlearn` is this one, offline."""
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "unlearn"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unlearn_cli "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    env = os.environ | {
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "UNLEARN_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    folder = tmp_path / "work"
    folder.mkdir()

    def run(command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return Shell(folder, run)


def test_reference_pages_are_what_the_code_says() -> None:
    """Writing them again would change nothing; if it would: `nox -s write_docs`."""
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


TUTORIAL = DOCS / "writing-plugins.md"  # run by a test of its own, as one story
RUN = [
    page
    for page in PAGES
    if page != TUTORIAL and any(b.runs and not b.skipped for b in blocks(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_do_what_it_says(page: Path, shell: Shell) -> None:
    """Its files are written, its commands run in order, and each prints the lines it shows. A
    command works, or shows the error with which it does not."""
    for block in blocks(page):
        if block.file:
            (shell.folder / block.file).write_text(block.text, encoding="utf-8")
        for command, lines in commands(block) if block.runs and not block.skipped else ():
            code, printed = shell.run(command)
            flat = " ".join(printed.split())
            shows_an_error = any(line.startswith("error:") for line in lines)
            assert code == (2 if shows_an_error else 0), printed
            assert [line for line in lines if " ".join(line.split()) not in flat] == []


def test_a_command_that_is_not_run_says_why() -> None:
    """A mark names one of few reasons; and most pages with commands have some that run."""
    skipped = [block.skipped for page in PAGES for block in blocks(page) if block.skipped]

    assert [why for why in skipped if not why.startswith(REASONS)] == []
    assert {page.name for page in RUN} >= {
        "first-run.md",
        "own-data.md",
        "choosing-a-method.md",
        "from-open-unlearning.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_toml_of_a_page_is_toml(page: Path) -> None:
    """Every spec, and every part of one, parses."""
    for block in blocks(page):
        if block.language == "toml":
            tomlkit.parse(block.text)


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string of a module, with … for what an f-string fills in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_that_are_explained_are_messages_of_the_code() -> None:
    """Each heading of the troubleshooting page is what some error says, word for word."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    quoted = [heading.replace("`", "").removesuffix(" …").strip(" …") for heading in headings]
    files = [*(ROOT / "unlearn_cli").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    said = "\n".join(s for file in files for s in strings(ast.parse(file.read_bytes())))

    assert len(quoted) > 30
    assert [message for message in quoted if message not in said] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page is a file of the repository."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_architecture_names_files_that_exist() -> None:
    """Every path in `docs/architecture.md` is one of the repository, from the root or the tool."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
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
