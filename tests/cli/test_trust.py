"""Foreign code runs where the spec and whoever runs it say so, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn_cli.cli import main
from unlearn_cli.cli.options import refuse_code
from unlearn_cli.errors import UsageError
from unlearn_cli.spec.load import load_spec

FLAG = "--trust-remote-code"


class Reached(BaseException):
    """No command takes this for a failure of its own."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What comes after the check ends the command, so that passing it shows."""
    monkeypatch.chdir(tmp_path)

    def reached(*_: object, **__: object) -> None:
        raise Reached

    for place in ("run.execute", "measure.measure", "dry_run.dry_run"):
        monkeypatch.setattr(f"unlearn_cli.engine.{place}", reached)


COMMANDS = (
    ["run", "quickstart"],
    ["run", "quickstart", "--dry-run"],
    ["evaluate", "quickstart"],
    ["sweep", "quickstart", "--seeds", "0,1"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("in_spec", [False, True])
@pytest.mark.parametrize("on_line", [False, True])
def test_both_must_say_so(
    command: list[str], in_spec: bool, on_line: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spec alone is refused with what to say; the flag alone trusts nothing."""
    said = ["--set", f"model.trust_remote_code={str(in_spec).lower()}"]
    with pytest.raises((SystemExit, Reached)) as left:
        main([*command, *said, *([FLAG] if on_line else [])])
    err = capsys.readouterr().err
    if in_spec and not on_line:
        assert isinstance(left.value, SystemExit)
        assert left.value.code == 2
        assert "model.trust_remote_code: the spec lets Python code run" in err
        assert FLAG in err
    else:
        assert isinstance(left.value, Reached)


def test_an_option_of_a_plugin_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_remote_code` of an evaluator counts as the model's does."""
    flags = ('evaluate=[{evaluator="lm_eval", tasks=["x"], trust_remote_code=true}]',)
    spec = load_spec("quickstart", flags)
    with pytest.raises(UsageError, match=r"^evaluate\.0\.trust_remote_code"):
        refuse_code(spec, trusted=False)
    refuse_code(spec, trusted=True)
