"""`output.tensorboard`: the curves are in the event file, as they are in the run's own log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Here, Workplace, evaluation, events

pytestmark = pytest.mark.slow
ON = ("run", "spec.toml", "--set", "output.tensorboard=true")


def curves(run: Path) -> dict[str, dict[int, float]]:
    """Values by step of every curve below a run folder."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed: pip install 'unlearn-cli[tensorboard]'",
    )
    found: dict[str, dict[int, float]] = {}
    for file in run.rglob("events.out.tfevents.*"):
        accumulator: Any = reader.EventAccumulator(str(file)).Reload()
        for tag in accumulator.Tags()["scalars"]:
            scalars = accumulator.Scalars(tag)
            found.setdefault(tag, {}).update({scalar.step: scalar.value for scalar in scalars})
    return found


def test_losses_and_metrics_are_in_the_event_file(place: Workplace, here: Here) -> None:
    """Each term's loss at each step, and a metric before and after, to the float32 of the file."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert here(*ON).code == 0
    run = place.run_folder("tiny")
    found = curves(run)
    logged = [entry for entry in events(run, "StepDone") if entry["stage"] == "train"]
    for name in ("total", "forget", "retain"):
        expected = {entry["step"]: entry["losses"][name] for entry in logged}
        assert found[f"loss/{name}"] == pytest.approx(expected, rel=1e-6)
    numbers = {n: evaluation(run, f"step-{n}")["table"]["numbers"] for n in (0, 4)}
    expected = {step: table["forget.probability"]["value"] for step, table in numbers.items()}
    assert found["tofu/forget.probability"] == pytest.approx(expected, rel=1e-6)


def test_without_the_package_nothing_starts(
    place: Workplace, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error that names the extra, exit code 2, before a model loads or a folder is made."""
    monkeypatch.setattr("unlearn_cli.engine.session.find_spec", lambda name: None)
    outcome = here(*ON)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "pip install 'unlearn-cli[tensorboard]'" in line
    assert not place.run_folder("tiny").exists()
