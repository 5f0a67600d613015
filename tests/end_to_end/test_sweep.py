"""`unlearn sweep`, end to end on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, events, weights

pytestmark = pytest.mark.slow
SWEEP = ("sweep", "spec.toml", "--grid", "method.beta=2,4.5", "--set", "train.steps=2")


def test_a_sweep_runs_once_and_compares(here: Here) -> None:
    """Every run is made, compared and plotted, from one target; again, nothing runs a second time;
    with more seeds, only those run."""
    first = here(*SWEEP)
    assert first.code == 0, first.err
    folder = Path("runs/tiny-sweep")
    runs = [folder / "beta-2_seed-0", folder / "beta-4.5_seed-0"]
    assert all((run / "report.html").is_file() for run in runs)
    assert weights(runs[0] / "model") != weights(runs[1] / "model")
    targets = {json.loads((run / "manifest.json").read_text("utf-8"))["model"] for run in runs}
    assert len(targets) == 1
    assert "simnpo, beta=4.5" in first.out
    assert f"unlearn compare {folder.absolute()}" in first.out
    assert (folder / "forget-utility.svg").read_text("utf-8").startswith("<svg")

    before = [events(run) for run in runs]
    again = here(*SWEEP)
    assert (again.code, again.out) == (0, first.out)
    assert [events(run) for run in runs] == before


def test_a_failed_run_is_tried_again(here: Here) -> None:
    """A learning rate that breaks one run leaves the other; exit code 1 and one line say which.
    Issued again, the failed one runs once more and the other does not."""
    command = ("sweep", "spec.toml", "--grid", "train.learning_rate=1e-30,1e-4", "--json")
    outcome = here(*command, "--set", "train.steps=1")
    assert outcome.code == 1
    assert [line[:45] for line in outcome.errors] == [
        "error: run learning_rate-1e-30_seed-0 failed: train: no p"[:45]
    ]
    (group,) = json.loads(outcome.out)["groups"]
    assert group["runs"] == [str(Path("runs/tiny-sweep/learning_rate-1e-4_seed-0").absolute())]

    again = here(*command, "--set", "train.steps=1")
    assert again.code == 1
    assert "run 1 of 2: learning_rate-1e-30_seed-0" in again.err
    assert "run 2 of 2" not in again.err


def test_precision_may_be_varied(here: Here) -> None:
    """Runs of one process may differ in what accelerate fixes for a process."""
    outcome = here(
        "sweep", "spec.toml", "--grid", "train.mixed_precision=no,bf16", "--set", "train.steps=2"
    )
    assert outcome.code == 0, outcome.err
    assert "simnpo, train.mixed_precision=bf16" in outcome.out


def test_everything_is_checked_before_anything_runs(here: Here) -> None:
    """Two bad values of two grids: both are named with exit code 2, and no folder is made."""
    outcome = here("sweep", "spec.toml", "--grid", "method.beta=1,x", "--grid", "train.steps=2,0")
    assert outcome.code == 2
    assert len(outcome.errors) == 2
    assert "method.beta=x" in outcome.err
    assert "train.steps=0" in outcome.err
    assert not Path("runs").exists()


def test_a_sweep_of_nothing(here: Here) -> None:
    """Without anything to vary there is no sweep; the options are named."""
    outcome = here("sweep", "spec.toml")
    assert outcome.code == 2
    assert "--grid" in outcome.errors[0]


def test_one_report_of_all_runs(here: Here, tmp_path: Path) -> None:
    """`unlearn report SWEEP --output FILE` sets all runs side by side in one safe file."""
    assert here(*SWEEP).code == 0
    outcome = here("report", "runs/tiny-sweep", "--output", str(tmp_path / "all.html"))
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "all.html").read_text("utf-8")
    assert "<h1>2 runs</h1>" in text
    assert "simnpo, beta=4.5" in text
    assert "<script" not in text


def test_a_sweep_shares_the_reference_pass(here: Here) -> None:
    """Runs of one target that draw the same rows score them once. The seed is of no other test, as
    these share a cache."""
    swept = ("sweep", "spec.toml", "--grid", "method.beta=0.1,0.5", "--set", "method.name=npo")
    assert here(*swept, "--set", "train.steps=2", "--seeds", "77").code == 0
    cached = [
        event["cached"]
        for run in sorted(Path("runs/tiny-sweep").glob("beta-*"))
        for event in events(run, "StageFinished")
        if event["stage"] == "reference_pass"
    ]
    assert cached == [False, True]
