"""The tutorial for plugin authors, run from its first step to its last."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import install_folder
from tests.test_docs import ROOT, blocks, commands

PAGE = ROOT / "docs" / "writing-plugins.md"


@dataclass(frozen=True)
class Reader:
    """Somebody who follows the page in an empty folder."""

    folder: Path

    def write(self, file: str, text: str) -> None:
        """Make the file, or put the next version in its place."""
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def call(self, program: str, *arguments: str) -> str:
        """What a command prints, on one line; what `pip install -e .` does is done without pip."""
        if program == "pip":
            assert arguments == ("install", "-e", ".")
            install_folder(self.folder)
            return ""
        module = {"unlearn": "unlearn_cli"}.get(program, program)
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        expected = 2 if "error:" in done.stderr else 0
        assert done.returncode == expected, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), *sys.path])
        own = {"PYTHONPATH": path, "UNLEARN_CACHE": str(self.folder / "cache"), "COLUMNS": "200"}
        return os.environ | own | {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.slow
def test_every_step_does_what_it_says(tmp_path: Path) -> None:
    """Files are written and commands run in the order of the page, and each prints the lines it
    shows; at the end stands a run whose report has the section of the plugin."""
    reader, count = Reader(tmp_path), 0
    for block in blocks(PAGE):
        if block.file:
            reader.write(block.file, block.text)
        for command, lines in commands(block) if block.language == "console" else ():
            printed, count = reader.call(*shlex.split(command)), count + 1
            assert [line for line in lines if " ".join(line.split()) not in printed] == [], printed

    assert count == 10
    report = (tmp_path / "fades" / "try" / "report.html").read_text(encoding="utf-8")
    assert "Greatest gradient" in report
    assert "in 4 steps</p>" in report
