"""The hooks, each on its occasion."""

import sys
from subprocess import run

import pytest
from click.testing import CliRunner
from unlearn_cli.events import Notice, RunFinished

from unlearn_myalgo import hooks


def test_the_command_greets() -> None:
    """It names the plugin that it belongs to."""
    result = CliRunner().invoke(hooks.hello)

    assert result.exit_code == 0
    assert "myalgo" in result.output


def test_the_end_of_a_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr with folder and verdict; other events are passed over."""
    hooks.run_event(Notice("on the way"))
    hooks.run_event(RunFinished("forgotten", "", "runs/a", seconds=1.0))

    assert capsys.readouterr().err == "myalgo saw the end of runs/a: forgotten\n"


def test_the_start_stays_light() -> None:
    """Importing the hooks, as every `unlearn` does, imports no torch."""
    code = "import sys, unlearn_myalgo.hooks; sys.exit('torch' in sys.modules)"

    assert run([sys.executable, "-c", code], check=False).returncode == 0
