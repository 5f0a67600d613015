"""`unlearn convert`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from unlearn_cli.cli import main
from unlearn_cli.spec import load_spec

COMMAND = ["python", "src/train.py", "experiment=unlearn/tofu/default", "trainer=NPO"]
COMMAND += ["--config-name=unlearn.yaml", "task_name=x", "trainer.args.logging_steps=1"]


def unlearn(*args: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        main(["convert", *args])
    return int(left.value.code or 0)


def test_the_spec_is_on_stdout_and_the_notes_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """So that it can be piped; exit code 0 in spite of notes, with and without `--`,
    in quotes or not."""
    assert unlearn(*COMMAND) == 0
    printed = capsys.readouterr()
    (tmp_path / "x.toml").write_text(printed.out, encoding="utf-8")

    assert load_spec(str(tmp_path / "x.toml")).method.name == "npo"
    assert printed.err.startswith("note: trainer.args.logging_steps=1: ")
    assert len(printed.err.splitlines()) == 1

    for other in (["--", *COMMAND], [" ".join(COMMAND)]):
        assert unlearn(*other) == 0
        assert capsys.readouterr().out == printed.out


def test_a_command_from_stdin_or_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lines that go on with a backslash are one command."""
    text = " \\\n  ".join(COMMAND)
    (tmp_path / "run.sh").write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))

    assert unlearn("--file", "-") == 0
    first = capsys.readouterr().out
    assert unlearn("--file", str(tmp_path / "run.sh")) == 0
    assert capsys.readouterr().out == first
    assert 'name = "npo"' in first


def test_a_file_that_is_there_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--output writes once."""
    file = tmp_path / "x.toml"

    assert unlearn("--output", str(file), *COMMAND) == 0
    before = file.read_text(encoding="utf-8")
    assert unlearn("--output", str(file), *COMMAND) == 2
    assert "there is a file already" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("arguments", [[], ["--file", "-", "python"]])
def test_one_source_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither none nor two."""
    assert unlearn(*arguments) == 2
    assert "give either a command or --file" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A file of another kind leaves one line and exit code 2."""
    (tmp_path / "image").write_bytes(b"\xff\xfe\x00")

    assert unlearn("--file", str(tmp_path / "image")) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err


def test_a_spelling_mistake_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An experiment that is not known, with the nearest one."""
    assert unlearn("src/train.py", "experiment=unlearn/tofu/idkk") == 2
    assert "did you mean 'unlearn/tofu/idk'?" in capsys.readouterr().err
