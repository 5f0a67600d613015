"""`unlearn new-plugin`: what it writes works as it is, what it refuses leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import install_folder
from unlearn_cli.catalog import KINDS, Kind
from unlearn_cli.cli.new_plugin import new_plugin
from unlearn_cli.errors import UsageError
from unlearn_cli.new_plugin import LONGEST, class_name, render

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "example-plugin"
NAMES: dict[Kind, str] = {
    "method": "fade",
    "dataset": "rooms_and_codes_2",
    "evaluator": "e" * LONGEST,
    "metric": "row",
}
"""Short, of several words, as long as can be, and one whose class name the module uses already."""


def new(*arguments: str | Path) -> str:
    """What the command prints."""
    result = CliRunner().invoke(new_plugin, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def run(*command: str | Path, path: list[Path] | None = None) -> None:
    """Run a module of this interpreter, with folders before its path; it must succeed."""
    before = [str(folder) for folder in path or []]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*before, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """One distribution of each kind, those of methods and metrics with hooks."""
    base = tmp_path_factory.mktemp("plugins")
    folders: dict[Kind, Path] = {kind: base / f"of-{kind}" for kind in KINDS}
    for kind, folder in folders.items():
        hooks = ["--hooks"] if kind in ("method", "metric") else []
        new(NAMES[kind], "--kind", kind, "--output", folder, *hooks)
    return folders


def test_what_is_written_is_clean(written: dict[Kind, Path]) -> None:
    """ruff has nothing to say, by the rules of the distribution itself."""
    for command in (["check"], ["format", "--check"]):
        run("ruff", *command, "--no-cache", *written.values())


@pytest.mark.slow
def test_what_is_written_has_strict_types(written: dict[Kind, Path]) -> None:
    """mypy --strict, with the settings and the cache of the project, so torch is not read again."""
    options: list[str | Path] = [
        "--config-file",
        ROOT / "pyproject.toml",
        "--strict",
        "--cache-dir",
        ROOT / ".mypy_cache",
    ]
    run("mypy", *options, *written.values(), path=[*written.values()])


@pytest.mark.slow
def test_what_is_written_passes_its_own_tests(written: dict[Kind, Path]) -> None:
    """All of them, warnings as errors, installed as far as `unlearn` can tell."""
    for folder in written.values():
        install_folder(folder)
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", ROOT.anchor]
    run("pytest", *options, *written.values(), path=[*written.values()])


def test_its_spec_can_run(written: dict[Kind, Path]) -> None:
    """The spec to try it with passes the check, which finds the plugin by its entry point."""
    for folder in written.values():
        install_folder(folder)
        (spec,) = folder.glob("try-*.toml")
        run("unlearn_cli", "check", spec, path=[folder])


def test_the_example_is_what_the_command_writes() -> None:
    """`docs/example-plugin` is `unlearn new-plugin myalgo --hooks`, to look at."""
    there = {
        str(file.relative_to(EXAMPLE)): file.read_text(encoding="utf-8")
        for file in EXAMPLE.rglob("*")
        if file.is_file() and not re.search(r"cache|egg-info", str(file.relative_to(EXAMPLE)))
    }

    assert there == render("myalgo", "method", hooks=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("class", "cannot be the name of a plugin; take letters"),
        ("my-algo", "'my-algo': cannot be the name of a plugin; try my_algo"),
        ("MyAlgo", "try myalgo"),
        ("2fade", "take letters"),
        ("hooks", "take letters"),
        ("x" * (LONGEST + 1), f"at most {LONGEST}"),
        ("npo", "unlearn-cli has a method of this name"),
        ("cli", "there is a package unlearn_cli already"),
        ("plugins", "there is a package unlearn_plugins already"),
    ],
)
def test_a_name_that_cannot_be_is_one_error(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what would work, the exit code is 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        new(name)

    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_another_kind_is_free(tmp_path: Path) -> None:
    """The data set `muse` does not keep anybody from a metric `muse`."""
    new("muse", "--kind", "metric", "--output", tmp_path / "muse")

    assert (tmp_path / "muse" / "unlearn_muse" / "muse.py").is_file()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """One with anything in it, or a file in its place; an empty one is taken."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for place, says in (("full", "is not empty"), ("full/mine.txt", "is a file, not a folder")):
        with pytest.raises(UsageError, match=says):
            new("fade", "--output", tmp_path / place)
    new("fade", "--output", tmp_path / "empty")

    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert (tmp_path / "empty" / "pyproject.toml").is_file()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the third file: one error, and neither files nor folder are left."""
    write_text, count = Path.write_text, 0

    def fails(self: Path, *args: str, **options: str) -> int:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        return write_text(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        new("fade", "--output", tmp_path / "new")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fade", "Fade"), ("my_algo2", "MyAlgo2"), ("scores", "ScoresMethod"), ("true", "TrueMethod")],
)
def test_class_names(name: str, expected: str) -> None:
    """Words joined; with the kind behind a word that the module uses for something else."""
    assert class_name(name, "method") == expected
