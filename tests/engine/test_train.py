"""The promises of the training loop: invariance, the reference pass, exact resume, honesty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from unlearn_cli.api import Progress, Weights
from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.checkpoints import Checkpoints, State
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.layers import deepest, find_layers, find_parameters, train_only
from unlearn_cli.engine.method import inspect_method
from unlearn_cli.engine.objective import (
    DISTANCES,
    Alternates,
    forget_term,
    hidden_term,
    kl_term,
    nll_term,
    reference_requests,
)
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.reference import ReferenceStore, make_store
from unlearn_cli.engine.train import Due, Optimization, Trainer
from unlearn_cli.errors import Interrupted, RunError
from unlearn_cli.events import CheckpointSaved, Notice, StepDone
from unlearn_cli.testing import Recorder, made_up_rows, tiny_model

FORGET, RETAIN = made_up_rows(10, seed=1), made_up_rows(13, seed=2)


@dataclass(frozen=True)
class RowLoss:
    """NPO-like: one value a row, needs the reference."""

    def forget_loss(self, forget: Scores, reference: Scores) -> Tensor:
        return -20 * F.logsigmoid(-0.1 * (forget.answer_logp - reference.answer_logp))


@dataclass(frozen=True)
class TokenLoss:
    """Gradient ascent: one value a token."""

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.token_logp


@dataclass(frozen=True)
class PairLoss:
    """DPO-like: alternates and both references."""

    def forget_loss(
        self, forget: Scores, alternate: Scores, reference: Scores, alternate_reference: Scores
    ) -> Tensor:
        lost = forget.answer_logp - reference.answer_logp
        won = alternate.answer_logp - alternate_reference.answer_logp
        return -20 * F.logsigmoid(-0.1 * (lost - won))


@dataclass(frozen=True)
class Steer:
    """RMU-like: one value a token, of the activations of the first of two blocks."""

    layers: tuple[str, ...] = ("*.layers.0",)

    def forget_loss(self, hidden: Hidden, reference_hidden: Hidden) -> Tensor:
        moved = hidden.layers["*.layers.0"] - 2 * reference_hidden.layers["*.layers.0"]
        return moved.square().mean(-1)


@dataclass(frozen=True)
class Turn(Steer):
    """RR-like: the retain term, whose slope at the reference is rounding noise, begins at 0."""

    def weights(self, progress: Progress) -> Weights:
        return Weights(1.0, progress.step / progress.total)


@dataclass(frozen=True)
class Dual:
    """PDU-like: the weight of the retain term follows the retain loss."""

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.token_logp

    def weights(self, progress: Progress) -> Weights:
        rise = progress.losses.get("retain", 0.0)
        return Weights(progress.weights.gamma, progress.weights.alpha + 0.1 * rise)


@dataclass(frozen=True)
class NotFinite:
    """Goes wrong at once."""

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.answer_logp * float("nan")


class Setting:
    """A training on made-up rows, with the reference store in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        method: Any = None,
        *,
        micro_batch: int | Literal["auto"] = 8,
        retain: str = "nll",
        keep: int = 1,
        stop: Callable[[], bool] = lambda: False,
        dtype: torch.dtype = torch.float32,
        activation_checkpointing: bool = False,
        warmup_epochs: float = 0.5,
    ) -> None:
        self.model, self.recorder = tiny_model().to(dtype), Recorder()
        method = method or RowLoss()
        needs = inspect_method(method, "m")
        layers = find_layers(self.model, needs.layers)
        plan = make_plan(forget=10, retain=13, batch_size=8, seed=0, epochs=2)
        streams: dict[str, Sequence[Encoded]] = {"forget": FORGET, "retain": RETAIN}
        alternates = None
        if needs.alternates:
            spare = made_up_rows(20, seed=3)
            alternates = Alternates(
                plan, [["0", "1"]] * 10, lambda pairs: [spare[2 * row + int(a)] for row, a in pairs]
            )
            streams["alternate"] = alternates.items
        scorer, accelerator = Scorer(self.model), Accelerator()
        requests = reference_requests(plan, streams, needs, retain, layers)
        store = make_store(folder / "reference", requests, scorer, accelerator, micro_batch=8)
        self.store: ReferenceStore = store
        terms = [forget_term(method, needs, 0.5, alternates, {"reference": store}, layers)]
        if retain in DISTANCES:
            terms.append(hidden_term(1.0, store, layers, DISTANCES[retain]))
            train_only(self.model, find_parameters(self.model, ["*"], deepest(layers)))
        elif retain != "none":
            terms.append(nll_term("retain", 1.0) if retain == "nll" else kl_term(1.0, store))
        self.checkpoints = Checkpoints(folder / "checkpoints", keep)
        self.trainer = Trainer(
            accelerator,
            scorer,
            _NoTokenizer(),
            plan,
            streams,
            terms,
            Optimization(
                1e-2, "linear", warmup_epochs, 0.01, 1.0, micro_batch, activation_checkpointing
            ),
            self.checkpoints,
            stage="train",
            emit=self.recorder,
            stop=stop,
            reweigh=getattr(method, "weights", None),
        )

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


class _NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.txt").write_text("none")


def each_step(step: int) -> bool:
    return True


CASES = [(RowLoss(), "nll"), (TokenLoss(), "kl"), (PairLoss(), "none"), (PairLoss(), "kl")]
CASES += [(Steer(), "hidden"), (Turn(), "hidden_norm"), (Steer(), "nll"), (Dual(), "nll")]


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize(("method", "retain"), CASES)
def test_the_micro_batch_does_not_change_the_weights(
    tmp_path: Path, method: Any, retain: str, micro_batch: int
) -> None:
    """Micro-batches of 1, 2 and 4 of a global batch of 8 end with the weights of one of 8.

    In float64, where rounding cannot hide a wrong weight of a row or token: in float32 Adam turns
    the rounding noise of gradients that are nearly zero into whole steps.
    """
    double = torch.float64
    whole = Setting(tmp_path / "8", method, retain=retain, dtype=double)
    parts = Setting(tmp_path / "m", method, retain=retain, micro_batch=micro_batch, dtype=double)
    for setting in (whole, parts):
        setting.trainer.fit()
    for name, expected in whole.weights().items():
        torch.testing.assert_close(parts.weights()[name], expected, rtol=1e-7, atol=1e-9)


def test_a_step_is_the_gradient_of_the_stated_loss(tmp_path: Path) -> None:
    """The first step's losses equal the formula, computed row by row with the bare model:
    gamma * mean over rows + alpha * mean over retain tokens."""
    setting = Setting(tmp_path, TokenLoss(), micro_batch=3)
    model, step = tiny_model().eval(), setting.trainer.plan.steps[0]

    def nll(items: Sequence[Encoded], rows: list[int]) -> Tensor:
        parts = []
        for row in rows:
            ids = torch.from_numpy(items[row].input_ids.astype("int64"))[None]
            logits = model(ids).logits[0]
            answer = slice(items[row].start, items[row].end)
            before = slice(items[row].start - 1, items[row].end - 1)
            parts.append(F.cross_entropy(logits[before], ids[0, answer], reduction="none"))
        return torch.cat(parts).mean()

    forget, retain = -nll(FORGET, step.forget.tolist()), nll(RETAIN, step.retain.tolist())
    setting.trainer.fit()
    losses = setting.recorder.of(StepDone)[0].losses
    assert losses["forget"] == pytest.approx(forget.item(), rel=1e-5)
    assert losses["retain"] == pytest.approx(retain.item(), rel=1e-5)
    assert losses["total"] == pytest.approx(0.5 * forget.item() + retain.item(), rel=1e-5)


def test_the_reference_pass_equals_a_second_model(tmp_path: Path) -> None:
    """Stored log-probabilities and logits are those of a copy of the model before training, also
    after the model itself has moved."""
    setting = Setting(tmp_path, PairLoss(), retain="kl")
    setting.trainer.fit()
    second = Scorer(tiny_model().eval())
    rows = setting.trainer.plan.steps[0].retain.tolist()
    expected = second([RETAIN[row] for row in rows])
    found = setting.store.scores("retain", rows, expected)
    torch.testing.assert_close(found.token_logp, expected.token_logp)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_the_kl_term_is_zero_before_the_first_update(tmp_path: Path) -> None:
    """KL(reference || model) vanishes while the model is the reference."""
    setting = Setting(tmp_path, TokenLoss(), retain="kl")
    setting.trainer.fit()
    losses = [step.losses["retain"] for step in setting.recorder.of(StepDone)]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert all(loss > 1e-6 for loss in losses[1:])


def test_weights_that_a_method_changes_survive_a_resume(tmp_path: Path) -> None:
    """The weights are those of the last step plus .1 of its retain loss, as `Dual` says, and a
    resumed run goes on with them."""
    whole = Setting(tmp_path / "whole", Dual())
    whole.trainer.fit()
    steps = whole.recorder.of(StepDone)
    assert steps[0].weights == {"forget": 0.5, "retain": 1.0}
    for before, after in pairwise(steps):
        expected = before.weights["retain"] + 0.1 * before.losses["retain"]
        assert after.weights["retain"] == pytest.approx(expected)
    stopping = Setting(tmp_path / "cut", Dual(), stop=lambda: stopping.trainer.done == 2)
    with pytest.raises(Interrupted):
        stopping.trainer.fit()
    again = Setting(tmp_path / "cut", Dual())
    state, _ = again.checkpoints.newest()
    assert state is not None
    again.trainer.resume(state)
    again.trainer.fit()
    assert [e.weights for e in again.recorder.of(StepDone)] == [e.weights for e in steps[2:]]


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, done: int) -> None:
    """Stopped after any step and resumed in a new trainer, the weights are bit-identical to those
    of a run that was never stopped."""
    whole = Setting(tmp_path / "whole", retain="kl")
    whole.trainer.fit()
    stopping = Setting(tmp_path / "cut", retain="kl", stop=lambda: stopping.trainer.done == done)
    with pytest.raises(Interrupted, match=f"step {done}"):
        stopping.trainer.fit()
    again = Setting(tmp_path / "cut", retain="kl")
    state, problems = again.checkpoints.newest()
    assert state is not None
    assert (state.step, problems) == (done, [])
    again.trainer.resume(state)
    again.trainer.fit()
    for name, expected in whole.weights().items():
        assert torch.equal(again.weights()[name], expected), name
    assert [e.step for e in again.recorder.of(StepDone)] == list(range(done + 1, 5))


def test_the_best_checkpoint_outlives_keep(tmp_path: Path) -> None:
    """With metric values 1, 3, 2, 0 the checkpoint of step 2 is kept beside the newest."""
    values = {1: 1.0, 2: 3.0, 3: 2.0, 4: 0.0}
    setting = Setting(tmp_path)
    setting.trainer.fit(Due(each_step, each_step, values.get))
    assert setting.checkpoints.steps() == [2, 4]
    assert setting.checkpoints.best() == 2


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """The error names the step and the term, and no update has happened."""
    setting = Setting(tmp_path, NotFinite())
    before = setting.weights()
    with pytest.raises(RunError, match="forget loss is nan at step 1"):
        setting.trainer.fit()
    assert all(torch.equal(before[name], value) for name, value in setting.weights().items())


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    """Recomputed activations give the same weights."""
    plain = Setting(tmp_path / "a")
    recomputed = Setting(tmp_path / "b", activation_checkpointing=True)
    assert any(getattr(m, "gradient_checkpointing", False) for m in recomputed.model.modules())
    for setting in (plain, recomputed):
        setting.trainer.fit()
    for name, expected in plain.weights().items():
        torch.testing.assert_close(recomputed.weights()[name], expected, rtol=1e-5, atol=1e-6)


def test_restoring_keeps_the_dtype_of_each_parameter(tmp_path: Path) -> None:
    """In a bfloat16 model with one float32 parameter, whose values bfloat16 cannot hold, the
    checkpoint brings every parameter back bit for bit, in its own dtype."""
    setting = Setting(tmp_path, TokenLoss(), dtype=torch.bfloat16, retain="none")
    setting.model.model.norm.float()
    with torch.no_grad():
        setting.model.model.norm.weight.fill_(1 + 2**-20)
    before = setting.weights()
    setting.checkpoints.save(State(1, {}), setting.model, _NoTokenizer(), {})
    with torch.no_grad():
        for parameter in setting.model.parameters():
            parameter.zero_()
    setting.trainer.restore(1)
    for name, value in setting.weights().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


def test_a_warm_up_that_never_ends_is_said(tmp_path: Path) -> None:
    """Two epochs of warm-up in a training of two: a notice; half an epoch: none."""
    assert not Setting(tmp_path / "short").recorder.of(Notice)
    setting = Setting(tmp_path / "long", warmup_epochs=2.0)
    (notice,) = setting.recorder.of(Notice)
    assert notice.text == "train: the warm-up takes all 4 steps"


def test_an_evaluation_that_is_stopped_costs_no_step_and_is_made_again(tmp_path: Path) -> None:
    """Interrupted within the evaluation after step 2: its checkpoint is there. A new trainer begins
    with that evaluation, and makes each later one once; weights and best are those of a training
    that nobody stopped."""
    values = {1: 1.0, 2: 3.0, 3: 2.0, 4: 0.0}
    whole = Setting(tmp_path / "whole")
    whole.trainer.fit(Due(each_step, each_step, values.get))

    def stopped(step: int) -> float:
        if step == 2:
            raise KeyboardInterrupt
        return values[step]

    cut = Setting(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        cut.trainer.fit(Due(each_step, each_step, stopped))
    assert cut.checkpoints.steps() == [1, 2]
    asked: list[int] = []

    def noted(step: int) -> float:
        asked.append(step)
        return values[step]

    again = Setting(tmp_path / "cut")
    assert again.trainer.resume_newest() == 2
    again.trainer.fit(Due(each_step, each_step, noted))
    assert asked == [2, 3, 4]
    assert again.checkpoints.steps() == whole.checkpoints.steps() == [2, 4]
    assert [e.best for e in again.recorder.of(CheckpointSaved)] == [True, False, False]
    for name, expected in whole.weights().items():
        assert torch.equal(again.weights()[name], expected), name


def test_what_was_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    """Killed in step 3, a training whose checkpoint of step 2 is evaluated goes on with step 3."""
    due = Due(lambda step: False, lambda step: step == 2)
    first = Setting(tmp_path)
    for _ in range(2):
        first.trainer.step()
        first.trainer._do(due)
    again = Setting(tmp_path)
    assert again.trainer.resume_newest() == 2
    assert not again.trainer.owes(due)
