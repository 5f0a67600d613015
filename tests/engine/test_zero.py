"""What DeepSpeed may be asked for, and that its updates are torch's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unlearn_cli.engine import zero
from unlearn_cli.errors import UsageError
from unlearn_cli.spec import tables
from unlearn_cli.spec.load import load_spec

SPEC = load_spec("quickstart")
ASKED = "ACCELERATE_USE_DEEPSPEED"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's wish is passed on through the environment, which is a copy here."""
    monkeypatch.setattr(os, "environ", dict(os.environ) | {ASKED: "true"})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "find_spec", lambda name: object())


def refused(spec: tables.Spec = SPEC) -> str:
    with pytest.raises(UsageError) as raised:
        zero.take_over(spec)
    return raised.value.line()


def test_without_deepspeed_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the extra."""
    monkeypatch.setattr(zero, "find_spec", lambda name: None)
    assert "pip install 'unlearn-cli[deepspeed]'" in refused()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1", "ZeRO-2 and ZeRO-3"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "without offloading"),
        ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "own.json", "without a file of its own"),
    ],
)
def test_what_a_launcher_may_not_ask_of_deepspeed(variable: str, value: str, told: str) -> None:
    """Other stages, offloading, another configuration; the profile that works is named."""
    os.environ[variable] = value
    line = refused()
    assert told in line
    assert "--profile zero2" in line


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("train", "optimizer", "adafactor"),
        ("target", "optimizer", "adamw_8bit"),
        ("train", "mixed_precision", "fp16"),
        ("train", "micro_batch", "auto"),
        ("wrap", "sam_rho", 0.01),
    ],
)
def test_what_does_not_go_with_deepspeed_is_refused_in_a_line(
    table: str, key: str, value: object
) -> None:
    """Before anything is computed; the line names the key, and what would work."""
    changed = getattr(SPEC, table).model_copy(update={key: value})
    line = refused(SPEC.model_copy(update={table: changed}))
    assert f"[{table}].{key}" in line
    assert "--profile ddp" in line


@pytest.mark.usefixtures("installed")
def test_accelerate_never_sees_that_deepspeed_was_asked_for() -> None:
    """Not in the first run of a process, nor in its second, which still takes DeepSpeed."""
    two: Any = type("Accelerator", (), {"num_processes": 2})
    one: Any = type("Accelerator", (), {"num_processes": 1})
    for _ in range(2):
        zero.take_over(SPEC)
        assert os.environ[ASKED] == "false"
        assert zero.stage_of(two) == 2
        assert zero.stage_of(one) == 0


BOTH = '''
import copy, math, os, sys
import torch
from accelerate import Accelerator
from torch import nn
from unlearn_cli.cli import _leave_the_others
from unlearn_cli.engine.optimizers import make_optimizer
from unlearn_cli.engine.sharding import is_sharded, part, shard, sharding, whole
from unlearn_cli.engine.train import UPDATES, Optimization
from unlearn_cli.engine.update import Update

stage = int(sys.argv[1])
os.environ |= {"UNLEARN_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": sys.argv[1]}
accelerator = Accelerator()
torch.manual_seed(0)
first, last = nn.Linear(8, 5), nn.Linear(5, 3)  # 5 + 3 biases and 55 weights: no even parts
scorer = nn.Module()
scorer.model = nn.Sequential(first, nn.Tanh(), last)
one, rows = copy.deepcopy(scorer), torch.randn(2, 2, 2, 3, 8)  # step, process, part, row, feature
options = Optimization(1e-2, "constant", 0, 0.1, 0.5, 1)
way = sharding(accelerator)
if way:
    shard(scorer.model, accelerator.device, way)
assert is_sharded(scorer.model) == (stage == 3)


class Alone:
    """accelerate's part on a single process."""
    num_processes, scaler, optimizer_step_was_skipped = 1, None, False
    prepare = staticmethod(lambda scorer, optimizer: (scorer, optimizer))
    clip_grad_norm_ = staticmethod(nn.utils.clip_grad_norm_)
    backward = staticmethod(lambda loss: loss.backward())


plain = Update(Alone(), one, make_optimizer(one, options), 0.5)
ZeroUpdate = UPDATES[stage]
shared = ZeroUpdate(accelerator, scorer, make_optimizer(scorer, options), 0.5)
me = accelerator.process_index


def weights(of):
    if way and of is scorer:  # held in parts: nothing whole, and about a half here
        assert all(weight.numel() == 0 for weight in of.parameters())
        held = sum(part(weight).numel() for weight in of.parameters())
        assert 63 / 2 <= held <= 63 / 2 + 4, held
    return torch.cat([whole(weight).detach().flatten() for weight in of.parameters()]).clone()


def loss(of, number, rows):
    """The first part of a step does not reach the last layer."""
    return (of.model(rows) if number else of.model[0](rows)).square().sum()


def step(rows, factor=1.0):
    for process in range(2):
        for number in range(2):
            plain.backward(factor * loss(one, number, rows[process, number]))
    for number, mine in enumerate(rows[me]):
        with shared.passing(last=number == 1):
            shared.backward(2 * factor * loss(scorer, number, mine))
    return plain.apply(), shared.apply()


for number in range(2):
    expected, found = step(rows[number])
    assert expected > 0.5, "nothing was clipped"
    assert math.isclose(expected, found, rel_tol=1e-4), (expected, found)
    assert torch.allclose(weights(one), weights(scorer), atol=1e-6)

kept, state = weights(scorer), shared.state(keep=True)
wanted = plain.state(keep=True)
assert state["param_groups"] == wanted["param_groups"]
assert state["state"].keys() == wanted["state"].keys()
for k, held in wanted["state"].items():
    assert held.keys() == state["state"][k].keys()
    for name, value in held.items():
        assert torch.allclose(value, state["state"][k][name], atol=1e-6), (k, name)

assert not math.isfinite(step(rows[0], float("nan"))[1])
assert torch.equal(weights(scorer), kept), "a step was taken with a gradient that is no number"
shared.close()

again = ZeroUpdate(accelerator, scorer, make_optimizer(scorer, options), 0.5)
again.load(wanted)
for k, held in again.state(keep=True)["state"].items():
    for name, value in held.items():
        assert torch.allclose(value, wanted["state"][k][name], atol=1e-6), (k, name)
plain, shared = Update(Alone(), one, plain.scheduled, 0.5), again
plain.drop()
for of in (plain, again):
    for group in of.scheduled.param_groups:
        group["lr"] = 3e-2  # as a schedule does
step(rows[1])
assert torch.allclose(weights(one), weights(scorer), atol=1e-6)
assert not torch.allclose(weights(scorer), kept, atol=1e-4)
_leave_the_others(0)  # as the tool does: at its own end torch's threads may abort a process
'''


LAUNCH = (
    "import sys; from unlearn_cli.engine.launch import launch; sys.exit(launch(2, sys.argv[1:]))"
)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_on_two_processes_deepspeed_updates_as_torch_does_on_one(
    tmp_path: Path, stage: int
) -> None:
    """The same norm, clipped weights and state after each step; a gradient that is no number
    changes no weight; and a new one goes on from torch's state."""
    script = tmp_path / "both.py"
    script.write_text(BOTH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(script), str(stage)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
