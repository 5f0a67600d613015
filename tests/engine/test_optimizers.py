"""The optimizers: what each keeps, what its first step is, and exact resume."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearn_cli.engine.checkpoints import Checkpoints
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.objective import nll_term
from unlearn_cli.engine.optimizers import OPTIMIZERS, make_optimizer, state_bytes
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.train import Optimization, Trainer
from unlearn_cli.errors import Interrupted
from unlearn_cli.spec.tables import OptimizerName
from unlearn_cli.testing import Recorder, made_up_rows, tiny_model

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "adamw_8bit" and find_spec("bitsandbytes") is None,
            reason="the extra quantized is not installed",
        ),
    )
    for name in OPTIMIZERS
]
ROWS = {"rows": made_up_rows(8, seed=5)}
CPU = torch.device("cpu")


def options(name: str, rate: float = 1e-2, decay: float = 0.0) -> Optimization:
    return Optimization(rate, "linear", 0.0, decay, 1.0, 8, False, name)


def large(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A matrix of 128 x 64 = 8192 values and a bias."""
    torch.manual_seed(0)
    return nn.Linear(64, 128).to(dtype)


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> int:
    """Bytes kept for a parameter; a table that all share is not its own."""
    kept = optimizer.state[parameter].items()
    return sum(v.nbytes for k, v in kept if isinstance(v, Tensor) and k not in ("qmap1", "qmap2"))


def stepped(name: str, model: nn.Module, **changed: Any) -> torch.optim.Optimizer:
    """One step on the gradient 1, 2, 3, ... of every tensor."""
    optimizer = make_optimizer(model, options(name, **changed))
    for parameter in model.parameters():
        values = torch.arange(1, parameter.numel() + 1, dtype=parameter.dtype)
        parameter.grad = values.view_as(parameter)
    optimizer.step()
    return optimizer


def test_every_name_of_the_spec_is_an_optimizer() -> None:
    """And there is no other."""
    assert set(get_args(OptimizerName)) == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "dtype", "least", "most"),
    [
        ("adamw", torch.float32, 8, 8.001),
        ("adamw", torch.bfloat16, 4, 4.001),
        ("adamw_8bit", torch.float32, 2, 2.04),
        ("adamw_8bit", torch.bfloat16, 2, 2.04),
        ("adafactor", torch.float32, (128 + 64) * 4 / 8192, 0.1),
    ],
)
def test_bytes_a_parameter(name: str, dtype: torch.dtype, least: float, most: float) -> None:
    """What the documentation of `train.optimizer` says, of a matrix of 8192 values; in 8 bits each
    256 of both averages have a scale of 4 bytes besides, and in `adafactor` a row and a column have
    a value each."""
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
    model = large(dtype)
    assert least <= state_of(stepped(name, model), model.weight) / 8192 <= most


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_the_first_step_of_adam_is_the_rate_in_the_direction_of_the_sign(name: str) -> None:
    """Its averages are the gradient and its square then, whatever bits they are kept in; only
    matrices decay, by rate times decay."""
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
    model, before = large(), large()
    stepped(name, model, rate=0.01, decay=0.5)
    expected = before.weight * (1 - 0.01 * 0.5) - 0.01
    torch.testing.assert_close(model.weight, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias, before.bias - 0.01, rtol=0, atol=1e-6)


def test_a_step_of_adafactor_is_relative_to_the_tensor() -> None:
    """With the gradient i * j, which rows and columns describe exactly, the update is 1 in every
    place: a step of the rate times the root mean square of the matrix (Shazeer and Stern 2018)."""
    model, before = large(), large()
    optimizer = make_optimizer(model, options("adafactor", rate=0.01))
    i, j = torch.arange(1.0, 129)[:, None], torch.arange(1.0, 65)[None, :]
    model.weight.grad = i * j
    optimizer.step()
    size = 0.01 * before.weight.square().mean().sqrt()
    torch.testing.assert_close(model.weight, before.weight - size, rtol=0, atol=1e-6)


def trainer(folder: Path, name: str, stop: int = -1) -> Trainer:
    """Six steps on made-up rows; stopped after step `stop`."""
    model = tiny_model()
    torch.manual_seed(0)  # the new ones are drawn
    model.resize_token_embeddings(128)  # 128 x 32 values: enough to be kept in 8 bits
    made = Trainer(
        Accelerator(),
        Scorer(model),
        _NoTokenizer(),
        make_plan(forget=8, retain=0, batch_size=4, seed=0, epochs=3),
        ROWS,
        [nll_term("rows", 1.0)],
        options(name),
        Checkpoints(folder),
        stage="train",
        emit=Recorder(),
        stop=lambda: made.done == stop,
    )
    return made


class _NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.txt").write_text("none")


@pytest.mark.filterwarnings("ignore:The new embeddings will be initialized")
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    """Stopped after three of six steps, and after five: the state that the checkpoint gives back,
    through torch's weights-only loader, is that which was saved."""
    whole = trainer(tmp_path / "whole", name)
    whole.fit()
    kept = {
        v.dtype
        for s in whole.update.scheduled.state.values()
        for v in s.values()
        if hasattr(v, "dtype")
    }
    assert (torch.uint8 in kept) == (name == "adamw_8bit")
    for stop in (3, 5):
        cut = trainer(tmp_path / f"cut-{stop}", name, stop)
        with pytest.raises(Interrupted):
            cut.fit()
        again = trainer(tmp_path / f"cut-{stop}", name)
        state, problems = again.checkpoints.newest()
        assert state is not None
        assert not problems
        again.resume(state)
        again.fit()
        for (key, found), expected in zip(
            again.model.state_dict().items(), whole.model.state_dict().values(), strict=True
        ):
            assert torch.equal(found, expected), (stop, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_state_has_the_bytes_that_are_said(name: str, dtype: torch.dtype) -> None:
    """Of a matrix, of one that is too small for 8 bits, and of a vector."""
    model = nn.ModuleList([large(dtype), nn.Linear(16, 8).to(dtype)])
    optimizer = stepped(name, model)
    for parameter in model.parameters():
        said = state_bytes(parameter, name)
        assert abs(said - state_of(optimizer, parameter)) <= 16  # the step may be a plain number
