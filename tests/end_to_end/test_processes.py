"""Two processes on the CPU give what one gives."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Outcome, Workplace, evaluation, events, finish, steps

pytestmark = pytest.mark.slow
STEPS, RATE = 4, 1e-4  # as in the spec


def tensors(run: Path) -> dict[str, Any]:
    """The weights of a run's model, by name."""
    from safetensors.torch import load_file

    return dict(load_file(run / "model" / "model.safetensors"))


def assert_as_one(run: Path, one: Path) -> None:
    """Float tolerance: two processes add the same summands in another order, so a gradient differs
    in its last bits. Adam divides it by its own size, and so may turn a rounding error of a
    gradient near 0 into any step up to the learning rate: a weight may be off by 2 x rate x steps
    at worst, and hardly any is: the mean must stay a hundred times smaller than one update."""
    import torch

    expected, found = tensors(one), tensors(run)
    off = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
    assert off.max() <= 2 * RATE * STEPS
    assert off.mean() <= RATE / 100
    assert steps(run) == steps(one)
    for place in ("step-0", f"step-{STEPS}"):
        assert_same_rows(evaluation(run, place), evaluation(one, place))


def assert_same_rows(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every row's every value, each row once, in the same order."""
    rows = found["table"]["rows"]
    assert rows.keys() == expected["table"]["rows"].keys()
    for name, metrics in expected["table"]["rows"].items():
        for metric, values in metrics.items():
            assert list(rows[name][metric]) == list(values)
            assert rows[name][metric] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("way", ["--processes", "accelerate launch"])
def test_two_processes_give_what_one_gives(
    finished: tuple[Workplace, Outcome, Path], way: str
) -> None:
    """Target and reference from the cache, then reference pass, training and evaluation on two:
    same weights and the same value for every row, and one log, one table, one report."""
    place, _, one = finished
    name = way.strip("-").replace(" ", "-")
    options = ("run", "spec.toml", "--name", name)
    outcome = (
        place.unlearn(*options, "--processes", "2")
        if way == "--processes"
        else place.launch(*options)
    )
    assert outcome.code == 0, outcome.err
    run = place.run_folder(name)
    assert events(run, "RunStarted")[0]["processes"] == 2
    assert outcome.out.count("Verdict: ") == 1
    assert_as_one(run, one)


def test_a_term_that_does_not_reach_every_parameter_goes_with_two_processes(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """RMU reads the second of three blocks, its retain term all of them, and the forget gradient is
    taken uphill: two processes agree on the way up and on the weights."""
    place = finished[0]
    settings = ("method.name=rmu", "method.layer=*.layers.1", "method.parameters=['*']")
    wraps = ("method.retain=nll", "method.alpha=1", "method.gamma=1", "wrap.sam_rho=0.01")
    options = [part for setting in (*settings, *wraps) for part in ("--set", setting)]
    for name, processes in (("sharp-1", ()), ("sharp-2", ("--processes", "2"))):
        outcome = place.unlearn("run", "spec.toml", *options, "--name", name, *processes)
        assert outcome.code == 0, outcome.err
    assert_as_one(place.run_folder("sharp-2"), place.run_folder("sharp-1"))


def test_an_error_on_two_processes_is_still_one_line(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """The folder holds a run: one line, exit code 2, no traceback of any launcher."""
    outcome = finished[0].unlearn("run", "spec.toml", "--processes", "2")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "Traceback" not in outcome.err


def test_ctrl_c_on_two_processes_leaves_a_checkpoint_and_says_how_to_resume(
    place: Workplace, finished: tuple[Workplace, Outcome, Path]
) -> None:
    """Exit code 130 and one line, as with one process; the checkpoint is of the last step."""
    process = place.start("run", "spec.toml", "--set", "train.steps=400", "--processes", "2")
    run = place.run_folder("tiny")
    while process.poll() is None and not steps(run):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    outcome = finish(process)
    assert outcome.code == 130, outcome.err
    (line,) = outcome.errors
    assert line.endswith(f"resume with: unlearn run {run / 'spec.toml'} --resume")
    assert "Traceback" not in outcome.err
    assert (run / "checkpoints" / f"step-{steps(run)[-1]}" / "hashes.json").is_file()


TASK = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["A", "B"]
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def test_processes_share_the_questions_of_the_harness(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """Five questions on one process and on two: the same answers, each question once."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    place = finished[0]
    (place.folder / "letters.yaml").write_text(TASK, encoding="utf-8")
    rows = [json.dumps({"question": f"Number {k}?", "answer": k % 2}) for k in range(5)]
    (place.folder / "questions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    harness = '[[evaluate]]\nevaluator = "lm_eval"\ntasks = ["letters"]\ninclude_path = "."\n'
    harness += "trust_remote_code = true\n"
    spec = place.spec.read_text("utf-8").partition("[[evaluate]]")[0] + harness
    (place.folder / "harness.toml").write_text(spec, encoding="utf-8")
    found = []
    for name, processes in (("harness-1", ()), ("harness-2", ("--processes", "2"))):
        trusted = ("--trust-remote-code", *processes)
        outcome = place.unlearn("run", "harness.toml", "--name", name, *trusted)
        assert outcome.code == 0, outcome.err
        path = place.run_folder(name) / "evaluations" / "step-4" / "lm_eval.json"
        found.append(json.loads(path.read_text("utf-8"))["table"])
    one, two = found
    assert list(two["rows"]["letters"]["acc"]) == ["0", "1", "2", "3", "4"]
    assert two == one
