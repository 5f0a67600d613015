"""What a command is told to write never becomes a part of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_compare import make
from unlearn_cli.cli import main

PLACES = ("spec.toml", "report.html", "evaluations/step-4/tofu.json", "model/x", "x.svg", "new/x")
COMMANDS = {
    "report": ("report", "{run}", "--output"),
    "report of several": ("report", "{run}", "{run}", "--output"),
    "report of another": ("report", "{other}", "--output"),
    "compare": ("compare", "{run}", "{other}", "--plot"),
    "certify": ("certify", "{run}", "--output"),
    "evaluate": ("evaluate", "{run}", "--output"),
    "evaluate another": ("evaluate", "quickstart", "--output"),
}


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([*args])
    return int(str(left.value.code)), capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_part_of_a_run_is_written_over(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the run that is read, or of any other; through a link too; only its report is written
    again."""
    run, other = make(tmp_path, "npo", 0, 0.8), make(tmp_path, "simnpo", 0, 0.2)
    (tmp_path / "link").symlink_to(run)
    before = contents(tmp_path)
    for folder in (run, str(tmp_path / "link")):
        if command.startswith("report") and place == "report.html":
            continue
        path = Path(folder, place)
        path = path.parent if command.startswith("evaluate") else path  # it writes into a folder
        args = [part.format(run=run, other=other) for part in COMMANDS[command]]
        code, err = call(capsys, *args, str(path))
        assert (code, "would be a part of the run" in err) == (2, True), err
    assert contents(tmp_path) == before


def test_what_lies_beside_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with a spec is no run; and a run's report and evidence have their place in it."""
    run = make(tmp_path, "npo", 0, 0.8)
    (tmp_path / "spec.toml").write_text('name = "x"')
    for path in (f"{run}/report.html", str(tmp_path / "report.html")):
        assert call(capsys, "report", run, "--output", path)[0] == 0
        assert Path(path).read_text().startswith("<!doctype html>")
