"""Two processes on the CPU give what one gives."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, evaluation, events, finish, steps

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
    assert_close(tensors(run), tensors(one), steps=STEPS)
    assert steps(run) == steps(one)
    for place in ("step-0", f"step-{STEPS}"):
        assert_same_rows(evaluation(run, place), evaluation(one, place))


def assert_close(found: dict[str, Any], expected: dict[str, Any], *, steps: int) -> None:
    """Weights after as many steps, within float tolerance as above."""
    import torch

    assert found.keys() == expected.keys()
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    off = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
    assert off.max() <= 2 * RATE * steps
    assert off.mean() <= RATE / 100


def assert_same_rows(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every row's every value, each row once, in the same order."""
    rows = found["table"]["rows"]
    assert rows.keys() == expected["table"]["rows"].keys()
    for name, metrics in expected["table"]["rows"].items():
        for metric, values in metrics.items():
            assert list(rows[name][metric]) == list(values)
            assert rows[name][metric] == pytest.approx(values, abs=1e-4)


ZERO = pytest.mark.deepspeed
WAYS = [
    ("processes", "ddp"),
    ("processes", "fsdp2"),
    pytest.param("processes", "zero2", marks=ZERO),
    pytest.param("processes", "zero3", marks=ZERO),
    ("accelerate", "fsdp2"),
    pytest.param("accelerate", "zero2", marks=ZERO),
    pytest.param("accelerate", "zero3", marks=ZERO),
    ("torchrun", "ddp"),
]


def is_shared(run: Path, profile: str) -> bool:
    """Whether a run went on two processes, and each held of model and optimizer what its profile
    says."""
    parts = {
        "fsdp2": "each process holds a part of the model",
        "zero2": "each process holds a part of the optimizer, by DeepSpeed",
        "zero3": "each process holds a part of the model, by DeepSpeed",
    }
    told = [notice["text"] for notice in events(run, "Notice")]
    on_two = events(run, "RunStarted")[0]["processes"] == 2
    return on_two and [name for name, text in parts.items() if text in told] == (
        [profile] if profile in parts else []
    )


@pytest.mark.parametrize(("way", "profile"), WAYS)
def test_two_processes_give_what_one_gives(
    finished: tuple[Workplace, Outcome, Path], way: str, profile: str
) -> None:
    """Target and reference from the cache, then reference pass, training and evaluation on two,
    each with the whole model or half of it: same weights and the same value for every row, and one
    log, one table, one report."""
    place, _, one = finished
    name = f"{way}-{profile}"
    options = ("run", "spec.toml", "--name", name)
    start = {
        "processes": lambda: place.unlearn(*options, "--processes", "2", "--profile", profile),
        "accelerate": lambda: place.launch(*options, profile=profile),
        "torchrun": lambda: place.torchrun(*options, "--profile", profile),
    }
    outcome = start[way]()
    assert outcome.code == 0, outcome.err
    run = place.run_folder(name)
    assert is_shared(run, profile)
    assert outcome.out.count("Verdict: ") == 1
    assert_as_one(run, one)


EVERYTHING = """
[[evaluate]]
evaluator = "quantize"

[[evaluate]]
evaluator = "relearn"
steps = 1
share = 1.0
learning_rate = 1e-4

[[evaluate]]
evaluator = "qa"
row_metrics = ["gradient_norm", "min_k_plus_plus"]
rows = 3
generate = false
attacks = false
"""
# RMU reads the second of three blocks, its retain term all of them.
RMU = (
    "method.name=rmu",
    "method.layer=*.layers.1",
    "method.parameters=['*']",
    "method.retain=nll",
    "method.alpha=1",
    "method.gamma=1",
)
# The reference keeps hidden states; noise around, and gradients that are clipped.
KL = (
    "method.name=npo",
    "method.retain=kl",
    "wrap.noise_sigma=0.001",
    "train.max_grad_norm=0.1",
)
PARTS = {
    "rmu": RMU,
    "rmu uphill": (*RMU, "wrap.sam_rho=0.01"),
    "kl": KL,
    "kl of a choice": (*KL, "wrap.saliency=0.5"),
    "edit": ("method.name=task_vector",),
    "lora": ("lora.rank=4", "lora.merge=true", "train.activation_checkpointing=true"),
}


@pytest.mark.parametrize(
    ("part", "profiles"),
    [
        ("rmu uphill", ("ddp", "fsdp2")),
        pytest.param("rmu", ("zero3",), marks=ZERO),
        ("kl of a choice", ("fsdp2",)),
        pytest.param("kl of a choice", ("zero2",), marks=ZERO),
        pytest.param("kl", ("zero3",), marks=ZERO),
        ("edit", ("fsdp2",)),
        ("lora", ("fsdp2",)),
        pytest.param("lora", ("zero2", "zero3"), marks=ZERO),
    ],
)
def test_every_part_of_the_engine_goes_with_two_processes(
    place: Workplace, here: Here, part: str, profiles: tuple[str, ...]
) -> None:
    """Terms that do not reach every parameter, stored hidden states, clipping, an edit, an adapter
    with recomputed activations; stress tests, and the gradient of each row."""
    if part == "lora":
        pytest.importorskip("peft", reason="the extra lora is not installed")
    with place.spec.open("a", encoding="utf-8") as spec:
        less = '"gradient_norm", ' if "zero3" in profiles else ""
        spec.write(EVERYTHING.replace(less, ""))
    options = ["run", "spec.toml"]
    options += [word for setting in PARTS[part] for word in ("--set", setting)]
    assert here(*options).code == 0
    for profile in profiles:
        shared = ("--name", profile, "--processes", "2", "--profile", profile)
        outcome = place.unlearn(*options, *shared)
        assert outcome.code == 0, outcome.err
        one, two = place.run_folder("tiny"), place.run_folder(profile)
        assert is_shared(two, profile)
        assert_as_one(two, one)
        for name in ("quantize", "relearn", "qa"):
            found, expected = (evaluation(run, f"step-{STEPS}", name) for run in (two, one))
            assert_same_rows(found, expected)


GRADIENTS = "evaluate=[{evaluator='qa', row_metrics=['gradient_norm']}]"


def test_what_fits_is_found_on_two_processes_too(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """The forecast is that of one process, and `micro_batch = "auto"` changes nothing: on a CPU,
    whose number accelerate gives in a run of several processes and not in one."""
    place, _, one = finished
    auto = ("--set", "train.micro_batch=auto", "--processes", "2")
    planned = place.unlearn("run", "spec.toml", "--dry-run", *auto)
    assert planned.code == 0, planned.err
    assert "Unlearn with simnpo: 4 steps" in planned.out
    outcome = place.unlearn("run", "spec.toml", "--name", "auto", *auto)
    assert outcome.code == 0, outcome.err
    assert_as_one(place.run_folder("auto"), one)


HARNESS = "evaluate=[{evaluator='lm_eval', tasks=['letters']}]"
LONGER = ("train.steps=8", "checkpoints.every=2", "checkpoints.keep=4")


@pytest.mark.parametrize(
    "profiles",
    [
        ("ddp", "fsdp2", None),
        pytest.param(("zero3", "zero2", "zero3"), marks=ZERO),
    ],
)
def test_a_run_resumes_on_other_processes_and_another_profile(
    place: Workplace, here: Here, profiles: Sequence[str | None]
) -> None:
    """Begun on one process; then two processes of one profile and of another, or one process again,
    go on from the checkpoints of those before them: the same weights to float tolerance."""
    options = ["run", "spec.toml"]
    options += [word for setting in LONGER for word in ("--set", setting)]
    assert here(*options).code == 0
    run = place.run_folder("tiny")
    undisturbed = tensors(run)
    for step, profile in zip((2, 4, 6), profiles, strict=True):
        others = ("--processes", "2", "--profile", profile) if profile else ()
        forget_after(run, step)
        outcome = place.unlearn(*options, "--resume", *others)
        assert outcome.code == 0, outcome.err
        assert f"resumed from the checkpoint of step {step}" in outcome.err
        assert steps(run) == list(range(1, 9))
        assert_close(tensors(run), undisturbed, steps=8)


def forget_after(run: Path, step: int) -> None:
    """Leave a finished run as if it had been killed right after the checkpoint of a step."""
    for checkpoint in (run / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    shutil.rmtree(run / "model")
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}), "utf-8")


@pytest.mark.parametrize(
    ("profile", "setting", "told"),
    [
        ("fsdp2", "train.optimizer=adafactor", "[train].optimizer"),
        ("fsdp2", HARNESS, "lm_eval"),
        pytest.param("zero3", "wrap.saliency=0.5", "[wrap].saliency", marks=ZERO),
        pytest.param("zero3", GRADIENTS, "[[evaluate]] qa", marks=ZERO),
    ],
)
def test_what_does_not_go_with_a_sharded_model_is_refused_in_a_line(
    finished: tuple[Workplace, Outcome, Path], profile: str, setting: str, told: str
) -> None:
    """Before anything is computed; it names what would work."""
    if setting == HARNESS:
        pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    outcome = finished[0].unlearn(
        *("run", "spec.toml", "--name", "refused", "--set", setting),
        *("--processes", "2", "--profile", profile),
    )
    assert outcome.code == 2
    (line,) = outcome.errors
    assert told in line
    assert "--profile ddp" in line


def test_an_error_on_two_processes_is_still_one_line(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """The folder holds a run: one line, exit code 2, no traceback of any launcher."""
    outcome = finished[0].unlearn("run", "spec.toml", "--processes", "2")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "Traceback" not in outcome.err


def test_a_signal_to_two_processes_leaves_a_checkpoint_and_says_how_to_resume(
    place: Workplace, finished: tuple[Workplace, Outcome, Path]
) -> None:
    """SIGTERM, as a scheduler sends it and Ctrl-C goes the same way: exit code 143 and one line, as
    with one process, though one alone got it; the checkpoint is of the last step."""
    process = place.start("run", "spec.toml", "--set", "train.steps=400", "--processes", "2")
    run = place.run_folder("tiny")
    while process.poll() is None and not steps(run):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 143, outcome.err
    (line,) = outcome.errors
    assert line.endswith(f"resume with: unlearn run {run / 'spec.toml'} --resume")
    assert "Traceback" not in outcome.err
    assert (run / "checkpoints" / f"step-{steps(run)[-1]}" / "hashes.json").is_file()


@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_process_dies_the_others_stop(
    place: Workplace, finished: tuple[Workplace, Outcome, Path], dies: int
) -> None:
    """Killed, as by the system when memory runs out: within a minute all have ended, with the code
    of that signal and one line that says which."""
    process = place.start("run", "spec.toml", "--set", "train.steps=100000", "--processes", "2")
    workers = psutil.Process(process.pid)
    while process.poll() is None and not steps(place.run_folder("tiny")):
        time.sleep(0.01)
    started = {child.environ().get("RANK"): child for child in workers.children()}
    started[str(dies)].kill()
    process.wait(timeout=60)
    outcome = finish(process)
    assert outcome.code == 128 + signal.SIGKILL
    ended = f"error: process {dies} was ended by signal 9"
    gone = [line for line in outcome.errors if "another process of this run has ended" in line]
    assert [line for line in outcome.errors if line not in gone] == [ended]
    assert "Traceback" not in outcome.err
    assert not any(child.is_running() for child in started.values())


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
