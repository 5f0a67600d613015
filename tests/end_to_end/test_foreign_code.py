"""Plugins that call `sys.exit(0)`, which must not look as if the run had worked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Workplace, events
from unlearn_cli import hooks
from unlearn_cli.runs import RunFolder

pytestmark = pytest.mark.slow
Install = Callable[..., Path]
LEAVES = """
    import sys
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Leaves:
        def forget_loss(self, forget):
            if forget.token_logp.requires_grad:
                sys.exit(0)
            return -forget.token_logp
"""
WATCHES = """
    import sys
    from unlearn_cli.hooks import hookimpl

    @hookimpl
    def run_event(event):
        if type(event).__name__ == "StepDone":
            sys.exit(0)
"""


def test_a_method_that_leaves_has_failed(place: Workplace, here: Here, install: Install) -> None:
    """Exit code 1, one line that names its distribution, and the folder says that it failed."""
    install("unlearn-bad", {"unlearn.methods": {"leaves": "leaves:Leaves"}}, leaves=LEAVES)
    outcome = here("run", "spec.toml", "--set", "method.name=leaves")
    run = place.run_folder("tiny")

    assert outcome.code == 1
    assert outcome.errors == [
        "error: unlearn-bad 1.2: sys.exit(0) was called before the command was done"
    ]
    assert RunFolder(run).manifest["status"] == "failed"
    assert [entry["error"] for entry in events(run, "RunFailed")] == ["SystemExit(0)"]


def test_a_watcher_that_leaves_is_left_out(place: Workplace, here: Here, install: Install) -> None:
    """The run ends as it would have; one warning names the plugin."""
    install("unlearn-bad", {"unlearn": {"bad": "watches"}}, watches=WATCHES)
    hooks.loaded.cache_clear()
    outcome = here("run", "spec.toml")
    hooks.loaded.cache_clear()

    assert outcome.code == 0, outcome.err
    assert outcome.err.count("plugin 'bad' failed in run_event: SystemExit: 0") == 1
    assert RunFolder(place.run_folder("tiny")).manifest["status"] == "finished"
