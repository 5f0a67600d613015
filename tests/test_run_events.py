"""The log of a run: one line an event, mended after a kill, cut where a run resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_runs import evaluation
from unlearn_cli.errors import RunError
from unlearn_cli.events import CheckpointSaved, EvaluationDone, Notice, RunFinished, StepDone
from unlearn_cli.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", 'name = "é"\n')


def step_done(stage: str, step: int) -> StepDone:
    return StepDone(stage, step, 9, 0.5, {"total": 1.0}, 1e-5, 1.0, 10, 0.1, 100)


def test_one_line_an_event(run: RunFolder) -> None:
    """Each event is one JSON line with its name, an UTC time and its fields."""
    run.append_event(Notice("two\nlines"))
    (entry,) = run.events()
    assert (entry["event"], entry["text"]) == ("Notice", "two\nlines")
    assert entry["time"].endswith("Z")


def test_tables_are_left_out(run: RunFolder) -> None:
    """An evaluation in the log names its file instead of repeating a value for every row."""
    run.append_event(EvaluationDone("tofu", "target", 0, evaluation().table, "x.json"))
    (entry,) = run.events()
    assert "table" not in entry
    assert entry["path"] == "x.json"


def test_loss_that_is_not_finite(run: RunFolder) -> None:
    """A loss of NaN is logged as null: the log stays JSON."""
    run.append_event(replace(step_done("train", 1), losses={"total": math.nan}))
    assert run.events()[0]["losses"] == {"total": None}


def test_cut_last_line(run: RunFolder) -> None:
    """Half a line, left by a kill, is not read, and the next event does not run into it."""
    run.append_event(Notice("one"))
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "Noti')
    assert [entry["text"] for entry in run.events()] == ["one"]
    run.append_event(Notice("two"))
    assert [entry["text"] for entry in run.events()] == ["one", "two"]


def test_damaged_line(run: RunFolder) -> None:
    """A damaged line that is not the last is an error that names its number."""
    run.append_event(Notice("one"))
    path = run.folder / "events.jsonl"
    path.write_text(path.read_text() + "rubbish\n")
    with pytest.raises(RunError, match=r"events\.jsonl:2: damaged JSON"):
        run.events()


def test_truncate(run: RunFolder) -> None:
    """Resuming at step 2 drops what training said after it, and nothing of other stages."""
    table = evaluation().table
    for event in (
        step_done("target", 5),
        EvaluationDone("tofu", "retain_reference", 5, table),
        step_done("train", 2),
        CheckpointSaved(2, "checkpoints/step-2"),
        EvaluationDone("tofu", "checkpoint", 2, table),
        step_done("train", 3),
        CheckpointSaved(3, "checkpoints/step-3"),
        EvaluationDone("tofu", "checkpoint", 3, table),
        Notice("kept"),
    ):
        run.append_event(event)
    run.truncate_events(2)
    assert [(e["event"], e.get("step")) for e in run.events()] == [
        ("StepDone", 5),
        ("EvaluationDone", 5),
        ("StepDone", 2),
        ("CheckpointSaved", 2),
        ("EvaluationDone", 2),
        ("Notice", None),
    ]


def test_truncate_keeps_what_happened_again_once(run: RunFolder) -> None:
    """Evaluated and saved twice before the kill, and evaluated once the training was over: of
    the first two the later stays, and the last is about to happen again."""
    table = evaluation().table
    for event in (
        EvaluationDone("tofu", "target", 0, table, "first"),
        CheckpointSaved(2, "first"),
        EvaluationDone("tofu", "target", 0, table, "second"),
        EvaluationDone("qa", "target", 0, table, "another"),
        CheckpointSaved(2, "second"),
        EvaluationDone("tofu", "unlearned", 2, table),
        RunFinished("forgotten", "", "", 1.0),
    ):
        run.append_event(event)
    run.truncate_events(2)
    assert [e["path"] for e in run.events()] == ["second", "another", "second"]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("null", "must be an object"),
        ('{"step": 1}', "event: is missing"),
        ('{"event": "Notice"}', "text: is missing"),
        ('{"event": "Notice", "text": 7}', "text: must be text"),
        ('{"event": "CheckpointSaved", "step": "2", "path": ""}', "step: must be a whole"),
        ('{"event": "Notice", "text": "", "x": 1e999}', "1e999 is too large"),
    ],
)
def test_a_line_that_is_no_event_is_named(run: RunFolder, line: str, wrong: str) -> None:
    """By its number and key; another version's event is left as it is."""
    run.append_event(Notice("fine"))
    path = run.folder / "events.jsonl"
    path.write_text(path.read_text() + '{"event": "Unheard"}\n' + line + "\n")
    with pytest.raises(RunError, match=wrong) as caught:
        run.events()
    assert caught.value.where == f"{path}:3"


def test_truncate_keeps_each_step_once(run: RunFolder) -> None:
    """A kill made the target's steps 1 and 2 happen twice: the log keeps the second of each,
    and everything else in its order."""
    for event in (
        Notice("first"),
        step_done("target", 1),
        step_done("target", 2),
        step_done("retain_reference", 1),
        Notice("again"),
        step_done("target", 1),
        step_done("target", 2),
        step_done("target", 3),
    ):
        run.append_event(event)
    run.truncate_events(0)
    assert [e.get("text") or (e["stage"], e["step"]) for e in run.events()] == [
        "first",
        ("retain_reference", 1),
        "again",
        ("target", 1),
        ("target", 2),
        ("target", 3),
    ]
