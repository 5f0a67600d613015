"""A run that is interrupted ends, once resumed, with the bits of one that was not.

What is killed at any moment is in `test_torture.py`.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import (
    Here,
    Outcome,
    Workplace,
    evaluation,
    events,
    finish,
    steps,
    weights,
)
from unlearn_cli.engine.score import score_probes
from unlearn_cli.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heard")]
ROOT = Path(__file__).parents[2]
TOTAL = 16
SETTINGS = (f"train.steps={TOTAL}", "checkpoints.every=3", "evaluate.0.every=8")
LONGER = tuple(part for setting in SETTINGS for part in ("--set", setting))


@pytest.fixture(scope="module")
def undisturbed(
    finished: tuple[Workplace, Outcome, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that the others must equal."""
    place = Workplace(tmp_path_factory.mktemp("undisturbed"), finished[0].cache)
    place.spec.write_text(finished[0].spec.read_text("utf-8"), encoding="utf-8")
    outcome = place.unlearn("run", "spec.toml", *LONGER)
    assert outcome.code == 0, outcome.err
    return place.run_folder("tiny")


def interrupt(place: Workplace, after: int, sent: signal.Signals) -> Outcome:
    """Start the run and send it a signal as soon as its log holds step `after`."""
    process = place.start("run", "spec.toml", *LONGER)
    run = place.run_folder("tiny")
    while process.poll() is None and (not steps(run) or steps(run)[-1] < after):
        time.sleep(0.002)
    process.send_signal(sent)
    return finish(process)


def assert_same(run: Path, undisturbed: Path) -> None:
    """Same weights, same evaluations, and every step once in the log."""
    assert weights(run / "model") == weights(undisturbed / "model")
    assert steps(run) == list(range(1, TOTAL + 1))
    for step in ("step-8", f"step-{TOTAL}"):
        assert evaluation(run, step)["table"] == evaluation(undisturbed, step)["table"]


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_a_checkpoint_and_says_how_to_resume(
    place: Workplace, undisturbed: Path, here: Here, sent: signal.Signals, code: int
) -> None:
    """Exit code 128 + the signal's number, one line that names the command, a checkpoint of the
    last step; the command, taken from that line, ends with the same bits."""
    outcome = interrupt(place, 5, sent)
    run = place.run_folder("tiny")
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    (line,) = outcome.errors
    command = line.split("resume with: unlearn ")[1].split()
    assert command == ["run", str(run / "spec.toml"), "--resume"]
    assert (run / "checkpoints" / f"step-{steps(run)[-1]}" / "hashes.json").is_file()
    resumed = here(*command)
    assert resumed.code == 0, resumed.err
    assert_same(run, undisturbed)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_does_not_wait_for_an_evaluation_on_the_way(
    place: Workplace,
    undisturbed: Path,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
    sent: signal.Signals,
    code: int,
) -> None:
    """Sent as step 8 is evaluated: that ends at once, and its checkpoint is there. The resumed run
    makes the evaluation again, its log has it once, and the bits are the same."""
    run = place.run_folder("tiny")

    def measure(*arguments: Any, **options: Any) -> Any:
        if steps(run)[-1:] == [8]:
            signal.raise_signal(sent)
            pytest.fail("the evaluation went on")
        return score_probes(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("unlearn_cli.engine.evaluate.score_probes", measure)
        outcome = here("run", "spec.toml", *LONGER)
    assert outcome.code == code, outcome.err
    assert (run / "checkpoints" / "step-8" / "hashes.json").is_file()
    assert not (run / "evaluations" / "step-8").exists()
    resumed = here("run", "spec.toml", *LONGER, "--resume")
    assert resumed.code == 0, resumed.err
    assert_same(run, undisturbed)
    for kind in ("EvaluationDone", "CheckpointSaved"):
        told = [e["step"] for e in events(run, kind) if e.get("label") != "target"]
        assert told == [e["step"] for e in events(undisturbed, kind) if e.get("label") != "target"]


def test_the_script_for_slurm_resumes_a_run_that_was_stopped_before_it_trained(
    place: Workplace, tmp_path: Path
) -> None:
    """SIGTERM while the target is made: there is no checkpoint yet, and the run goes on with what
    the script of the documentation puts in front of it."""
    place = Workplace(place.folder, tmp_path / "cache")
    command = ("run", "spec.toml", "--set", "target.epochs=40")
    process, run = place.start(*command), place.run_folder("tiny")
    while process.poll() is None and not events(run, "StepDone"):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 143, outcome.err
    assert not steps(run)
    script = (ROOT / "docs" / "several-gpus.md").read_text("utf-8").replace("forget-mara", "tiny")
    (line,) = re.findall(r"^export RESUME=.*$", script, re.MULTILINE)
    shell = ["bash", "-c", f"{line}; echo $RESUME"]
    said = subprocess.run(shell, cwd=place.folder, capture_output=True, text=True, check=True)
    resumed = place.unlearn(*command, *said.stdout.split())
    assert resumed.code == 0, resumed.err
    target = [e["step"] for e in events(run, "StepDone") if e["stage"] == "target"]
    assert target == [*range(1, len(target) + 1)]


def test_a_second_run_in_the_same_folder_is_refused(place: Workplace, here: Here) -> None:
    """While one process writes there, another gets one line and exit code 2, and changes nothing;
    the first goes on."""
    endless = ("run", "spec.toml", "--set", "train.steps=100000")
    process = place.start(*endless)
    run = place.run_folder("tiny")
    while process.poll() is None and not steps(run):
        time.sleep(0.01)
    outcome = here(*endless, "--resume")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "another process is writing to this run" in line
    assert "already holds a run" in here(*endless).err
    reached = steps(run)[-1]
    while process.poll() is None and steps(run)[-1] == reached:
        time.sleep(0.01)
    assert process.poll() is None
    process.kill()
    finish(process)
    assert len(events(run, "RunStarted")) == 1


def test_resuming_a_finished_run_changes_nothing(undisturbed: Path, here: Here) -> None:
    """`--resume` of a run that is done prints its table and leaves the weights as they are."""
    before = (weights(undisturbed / "model"), (undisturbed / "events.jsonl").read_bytes())
    outcome = here("run", str(undisturbed / "spec.toml"), "--resume")
    assert outcome.code == 0, outcome.err
    assert "forget.probability" in outcome.out
    assert before == (weights(undisturbed / "model"), (undisturbed / "events.jsonl").read_bytes())


@pytest.mark.parametrize("gone", ["model", f"evaluations/step-{TOTAL}/tofu.json"])
def test_resuming_a_finished_run_that_lost_results_says_so(
    place: Workplace, undisturbed: Path, here: Here, gone: str
) -> None:
    """Exit code 1 and one line with what is gone: 0 would say that the result is there."""
    run = place.run_folder("tiny")
    shutil.copytree(undisturbed, run)
    lost = run / gone
    if lost.is_dir():
        shutil.rmtree(lost)
    else:
        lost.unlink()
    outcome = here(
        "run", str(run / "spec.toml"), "--set", f"output.folder={run.parent}", "--resume"
    )
    assert outcome.code == 1, outcome.err
    (line,) = outcome.errors
    assert gone in line
    assert "under another name" in line


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    place: Workplace, undisturbed: Path, here: Here
) -> None:
    """One byte of the newest checkpoint flipped: resuming says so and still ends the same."""
    keep = (*LONGER, "--set", "checkpoints.keep=2")
    process = place.start("run", "spec.toml", *keep)
    run = place.run_folder("tiny")
    while process.poll() is None and (not steps(run) or steps(run)[-1] < 10):
        time.sleep(0.002)
    process.kill()
    finish(process)
    newest = max((run / "checkpoints").glob("step-*"), key=lambda p: int(p.name[5:]))
    file = newest / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    resumed = here("run", "spec.toml", *keep, "--resume")
    assert resumed.code == 0, resumed.err
    assert str(file) in resumed.err
    assert_same(run, undisturbed)


def test_links_in_a_run_that_somebody_lent_lead_nowhere(
    place: Workplace, undisturbed: Path, here: Here
) -> None:
    """Its log and its checkpoints lead to files of others: `--resume` names a link, with exit code
    2, and those files stay as they were."""
    run = place.run_folder("tiny")
    shutil.copytree(undisturbed, run, ignore=shutil.ignore_patterns("model", "events.jsonl"))
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    RunFolder(run).update_manifest(status="interrupted")
    others = place.folder / "others"
    for name in ("step-3/data", "step-999/data", "log"):
        (others / name).parent.mkdir(parents=True, exist_ok=True)
        (others / name).write_text("one\ncut", encoding="utf-8")
    (run / "checkpoints").symlink_to(others)
    (run / "events.jsonl").symlink_to(others / "log")
    outcome = here(
        "run", str(run / "spec.toml"), "--set", f"output.folder={run.parent}", "--resume"
    )
    assert outcome.code == 2, outcome.err
    (line,) = outcome.errors
    assert "is a link" in line
    left = {path.relative_to(others).as_posix() for path in others.rglob("*") if path.is_file()}
    assert left == {"step-3/data", "step-999/data", "log"}
    assert (others / "log").read_text("utf-8") == "one\ncut"
