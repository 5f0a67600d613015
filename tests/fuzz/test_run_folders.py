"""Run folders and stored results that are damaged are refused with one line, or read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import Tries
from tests.fuzz.mutate import DAMAGES, damaged, distort, distorted
from unlearn_cli.api.evaluate import Number, Table
from unlearn_cli.cli import main
from unlearn_cli.environment import environment
from unlearn_cli.errors import UnlearnError
from unlearn_cli.evaluations import Evaluation, Generated
from unlearn_cli.events import (
    CheckpointSaved,
    EvaluationDone,
    Notice,
    RunFinished,
    RunStarted,
    Sample,
    StageFinished,
    StageStarted,
    StepDone,
)
from unlearn_cli.foreign_logs import TOFU_FILES
from unlearn_cli.judgement import judge_again
from unlearn_cli.runs import RunFolder
from unlearn_cli.stored import Foreign, read_stored

SPEC = """name = "{name}"
seed = {seed}
[data]
dataset = "tofu"
[method]
name = "npo"
[[evaluate]]
evaluator = "tofu"
"""
COMMANDS = (
    ("report",), ("compare",), ("compare", "--json"), ("meta",), ("meta", "--json"),
    ("certify",), ("verify",), ("report", "--output", "all.html"),
)  # fmt: skip
"""Those that read runs without a model; `run --resume` and `evaluate` load one, and the data."""


def evaluation(label: str, step: int, value: float) -> Evaluation:
    rows: dict[str, float | None] = {"a": value, "b": value / 2, "c": None}
    numbers = {
        "forget.probability": Number(value, "lower", 2, 1),
        "forget.truth_ratio": Number(value, "higher", 3),
        "forget_quality": Number(None, "higher", reason="no retain reference"),
        "model_utility": Number(1 - value / 2, "higher"),
    }
    kept = {"forget": {"probability": rows, "truth_ratio": rows}}
    samples = tuple(Generated("forget", row, f"{row}?", "yes", "no") for row in "abc")
    table = Table(kept, numbers, ("a note",))
    return Evaluation("tofu", label, step, table, f"{step:064x}", "d" * 64, {"k": 1}, samples)


def make(folder: Path, name: str, seed: int) -> None:
    """A finished run as `unlearn run` leaves it."""
    run = RunFolder.create(folder / name, SPEC.format(name=name, seed=seed))
    told = [
        evaluation("retain_reference", 0, 0.1),
        evaluation("target", 0, 0.9),
        evaluation("checkpoint", 2, 0.5),
        evaluation("unlearned", 4, 0.2 + seed / 10),
    ]
    run.append_event(RunStarted(name, str(run.folder), "npo", "cpu", 1))
    run.append_event(StageStarted("train", "Unlearn", 4, "steps"))
    for step in range(1, 5):
        losses = {"total": 1.0 / step, "forget": 0.5}
        run.append_event(StepDone("train", step, 4, 1.0, losses, 1e-4, 1.0, 20, 0.1, 10**6, {}))
    run.append_event(CheckpointSaved(4, "x", best=True))
    for one in told:
        path = run.write_evaluation(one)
        run.append_event(EvaluationDone(one.evaluator, one.label, one.step, one.table, path))
    run.append_event(StageFinished("train", 2.5))
    run.append_event(Notice("a notice"))
    sample = Sample("a?", "yes", "yes", "no")
    run.append_event(RunFinished("forgotten", "as it should", str(run.folder), 3.0, (sample,)))
    run.model.mkdir()
    (run.model / "config.json").write_text("{}")
    run.update_manifest(
        status="finished",
        verdict=judge_again(run),
        environment=environment(),
        inputs={"model": f"{0:064x}", "forget": "f" * 64},
        model=f"{0:064x}",
        unlearned=f"{4:064x}",
        retain_reference=f"{0:064x}",
        finished="2025-01-31T12:00:00.000Z",
        files=run.hashes(),
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs."""
    folder = tmp_path_factory.mktemp("sound")
    for name, seed in (("one", 0), ("two", 1)):
        make(folder, name, seed)
    assert call(folder, ("certify",)) == 0
    return folder


def test_the_sound_runs_are_read(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is damaged below is whole here: no command refuses it."""
    for command in COMMANDS:
        assert call(sound, command) == 0, capsys.readouterr().err


def call(folder: Path, command: tuple[str, ...]) -> int:
    name, *rest = command
    one, two = str(folder / "one"), str(folder / "two")
    runs = {"certify": [one], "verify": [f"{one}/evidence.json"]}.get(name, [one, two])
    rest = [str(folder / part) if part.endswith(".html") else part for part in rest]
    with pytest.raises(SystemExit) as left:
        main([name, *runs, *rest])
    return int(str(left.value.code))


FILES = (
    "spec.toml",
    "manifest.json",
    "events.jsonl",
    "evaluations/step-4/tofu.json",
    "evidence.json",
)


def damage(name: str, text: bytes, dice: Random) -> bytes:
    """As bytes or, where it is JSON, within a value."""
    if name == "spec.toml" or dice.random() < 0.4:
        return dice.choice(DAMAGES)(text, dice)
    if name.endswith(".json"):
        return json.dumps(distort(json.loads(text), dice)).encode()
    rows = [json.loads(line) for line in text.splitlines()]
    at = dice.randrange(len(rows))
    rows[at] = distort(rows[at], dice)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_damaged_run_folders(
    sound: Path,
    tmp_path: Path,
    tries: Tries,
    in_time: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One file of a run damaged, as bytes or as JSON: each command that reads runs says so in one
    line, or goes on; never a traceback."""

    @tries(20)
    @given(name=st.sampled_from(FILES), dice=st.randoms(), command=st.sampled_from(COMMANDS))
    def property_(name: str, dice: Random, command: tuple[str, ...]) -> None:
        in_time()
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        shutil.copytree(sound, tmp_path / "runs")
        file = tmp_path / "runs" / "one" / name
        file.write_bytes(damage(name, file.read_bytes(), dice))
        code = call(tmp_path / "runs", command)
        out, err = capsys.readouterr()
        assert code in (0, 1, 2), err
        assert "Traceback" not in err, f"{file.read_bytes()!r}\n{err}"
        assert code == 0 or "error: " in err or "failed" in out

    property_()


def assert_sense(file: Path) -> None:
    """What is stored there can be used, or the file is named."""
    try:
        found = read_stored(file)
    except UnlearnError as error:
        complaint = error.line()
    else:
        whole = found.sets.values() if isinstance(found, Foreign) else found
        assert all(whole)
        for one in [] if isinstance(found, Foreign) else found:
            assert Evaluation.from_json(one.to_json()) == one
        return
    assert str(file) in complaint


FOREIGN: list[Any] = [
    {
        file: {
            "avg_gt_loss": {"0": 1.5, "1": 0.5},
            "avg_paraphrased_loss": {"0": 1.0, "1": 2.0},
            "average_perturb_loss": {"0": [1.0, 2.0], "1": [2.0, 3.0]},
            "rougeL_recall": {"0": 0.5, "1": 1.0},
        }
        for file in TOFU_FILES
    },
    {
        "forget_Q_A_Prob": {
            "agg_value": 0.5,
            "value_by_index": {"0": {"prob": 0.5, "avg_loss": 0.7}},
        },
        "forget_Q_A_ROUGE": {
            "agg_value": 0.5,
            "value_by_index": {"0": {"rougeL_recall": 0.5}},
        },
        "forget_truth_ratio": {"agg_value": 0.5, "value_by_index": {"0": {"score": 0.5}}},
    },
    json.loads(evaluation("retain_reference", 0, 0.5).to_json()),
]


def test_damaged_stored_results(tmp_path: Path, tries: Tries, in_time: Callable[[], None]) -> None:
    """Evaluations of this tool and of others: a RunError, or what comes out is whole."""
    samples = [json.dumps(stored, indent=1).encode() for stored in FOREIGN]
    as_json = distorted(FOREIGN).map(lambda value: json.dumps(value).encode())

    @tries(50)
    @given(data=damaged(samples) | as_json)
    def property_(data: bytes) -> None:
        in_time()
        file = tmp_path / "stored.json"
        file.write_bytes(data)
        assert_sense(file)

    property_()


FOUND = {
    "a key that stands twice": ("spec.toml", b'name = "one"\nname = "two"\n'),
    "null for an event": ("events.jsonl", b"null\n"),
    "an event without its name": ("events.jsonl", b'{"stage": "train"}\n'),
    "an older log": ("events.jsonl", b'{"event":"StageFinished","stage":"train","seconds":1}\n'),
    "a step that is text": ("events.jsonl", b'{"event": "StepDone", "step": "1"}\n'),
    "a verdict without its name": ("manifest.json", b'{"status": "finished", "verdict": {}}'),
    "a verdict that is text": ("manifest.json", b'{"status": "finished", "verdict": "x"}'),
    "a seed that is text": ("spec.toml", b'name = "one"\nseed = "x"\n[method]\nname = "npo"\n'),
    "no object": ("evaluations/step-4/tofu.json", b"[]"),
}
"""What was found so, or might have been, and is mended: file of a run, its bytes."""


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found(
    case: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once was a traceback."""
    shutil.copytree(sound, tmp_path / "runs")
    name, data = FOUND[case]
    (tmp_path / "runs" / "one" / name).write_bytes(data)
    for command in COMMANDS:
        assert call(tmp_path / "runs", command) in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err
