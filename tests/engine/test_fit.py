"""Micro-batches that fit: found before the training, halved in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tests.engine.test_train import PairLoss, Setting, Steer, each_step
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine import fit, memory
from unlearn_cli.engine.estimate import UnforeseenError, estimate_step, imagine
from unlearn_cli.engine.gradients import Smoothing
from unlearn_cli.engine.objective import nll_term
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.train import Due
from unlearn_cli.errors import Interrupted
from unlearn_cli.events import Notice
from unlearn_cli.testing import made_up_rows, tiny_model

GIB = 2**30


def notices(setting: Setting) -> list[str]:
    return [notice.text for notice in setting.recorder.of(Notice)]


@pytest.mark.parametrize(
    ("method", "retain"), [(None, "nll"), (PairLoss(), "kl"), (Steer(), "nll")]
)
def test_a_whole_step_is_taken_where_it_fits(tmp_path: Path, method: Any, retain: str) -> None:
    """8 forget and 8 retain rows go through at once, and the weights are those of single rows."""
    double = torch.float64
    auto = Setting(tmp_path / "auto", method, retain=retain, micro_batch="auto", dtype=double)
    assert "train: micro-batches of 16 rows fit" in notices(auto)
    single = Setting(tmp_path / "1", method, retain=retain, micro_batch=1, dtype=double)
    for setting in (auto, single):
        setting.trainer.fit()
    for name, expected in single.weights().items():
        torch.testing.assert_close(auto.weights()[name], expected, rtol=1e-7, atol=1e-9)


def test_less_memory_means_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By halves of a step, down to 1 where nothing fits: then the attempt may still succeed."""
    monkeypatch.setattr(fit, "RESERVED", 0)
    found = []
    for kib in (10_000, 900, 400, 1):
        monkeypatch.setattr(memory, "total", lambda accelerator, kib=kib: kib * 1024 / fit.SHARE)
        found.append(Setting(tmp_path / str(kib), micro_batch="auto").trainer.gradients.micro_batch)
    assert found[0] == 16
    assert found[-1] == 1
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 2


class Small(nn.Module):
    """A scorer on a machine whose memory holds no more than some rows."""

    def __init__(self, scorer: Any, most: int) -> None:
        super().__init__()
        self.scorer, self.model, self.most = scorer, scorer.model, most
        self.refused = 0

    def forward(self, items: Any, layers: Any = None) -> Any:
        if len(items) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return self.scorer(items, layers)


def with_little_memory(folder: Path, most: int, **options: Any) -> Setting:
    setting = Setting(folder, **options)
    setting.trainer.gradients.scorer = Small(setting.trainer.gradients.scorer, most)
    return setting


def test_where_memory_runs_out_the_step_is_taken_again_in_halves(tmp_path: Path) -> None:
    """16 rows do not fit, 8 do not, 4 do: the run ends with the weights of one that began with 4,
    to the bit, and says so once a halving."""
    less = with_little_memory(tmp_path / "less", 4, micro_batch=16)
    asked = Setting(tmp_path / "asked", micro_batch=4)
    for setting in (less, asked):
        setting.trainer.fit()
    assert [text for text in notices(less) if "memory" in text] == [
        "out of memory: micro-batches of 8 rows",
        "out of memory: micro-batches of 4 rows",
    ]
    for name, expected in asked.weights().items():
        assert torch.equal(less.weights()[name], expected)


def test_a_single_row_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    """There is nothing left to halve; the weights are as they were."""
    setting = with_little_memory(tmp_path, 0, micro_batch=2)
    before = setting.weights()
    with pytest.raises(torch.OutOfMemoryError):
        setting.trainer.fit()
    for name, expected in before.items():
        assert torch.equal(setting.weights()[name], expected)


def test_a_resumed_run_goes_on_with_what_fitted(tmp_path: Path) -> None:
    """The checkpoint says that 4 rows fit, so the resumed run does not try 16 again."""
    first = with_little_memory(tmp_path, 4, micro_batch=16)
    first.trainer.stop = lambda: first.trainer.done == 2
    with pytest.raises(Interrupted):
        first.trainer.fit(Due(each_step))
    again = with_little_memory(tmp_path, 4, micro_batch=16)
    state, _ = again.checkpoints.newest()
    assert state
    again.trainer.resume(state)
    again.trainer.fit()
    assert again.trainer.gradients.scorer.refused == 0


def test_a_raised_micro_batch_is_taken_where_memory_never_ran_out(tmp_path: Path) -> None:
    """The run began with 2 rows and is resumed with 16."""
    first = Setting(tmp_path, micro_batch=2)
    first.trainer.stop = lambda: first.trainer.done == 2
    with pytest.raises(Interrupted):
        first.trainer.fit(Due(each_step))
    again = Setting(tmp_path, micro_batch=16)
    state, _ = again.checkpoints.newest()
    assert state
    again.trainer.resume(state)
    assert again.trainer.gradients.micro_batch == 16


class Looks:
    """A method that chooses tokens by their values."""

    def forget_loss(self, forget: Scores) -> Tensor:
        return forget.token_logp * float(forget.token_logp.detach().min())


def test_a_method_that_looks_at_values_has_no_estimate(tmp_path: Path) -> None:
    """One line says so, and what to set."""
    with pytest.raises(UnforeseenError, match="depends on values") as caught:
        Setting(tmp_path, Looks(), micro_batch="auto")
    assert caught.value.hint == "set train.micro_batch to a number"


def test_what_goes_around_a_pass_is_counted(tmp_path: Path) -> None:
    """Sharper minima and noise keep one copy of all that is trained around a pass, and nothing else
    as large: the way uphill is gone when the pass begins. From the second draw of the noise on, the
    gradients of those before are there too. The former goes through the model twice, the latter
    once a draw."""
    model, rows = tiny_model(), made_up_rows(8, seed=5)
    plain, *around = (
        estimate_step(
            lambda: (imagine(model, torch.device("cpu")), [nll_term("rows", 1.0)]),
            {"rows": rows},
            make_plan(forget=8, retain=0, batch_size=8, seed=0, epochs=1),
            Accelerator(),
            micro_batch=8,
            optimizer="adamw",
            smoothing=smoothing,
        )
        for smoothing in (None, Smoothing(0.1), Smoothing(None, 0.1), Smoothing(None, 0.1, 3))
    )
    size, tokens = sum(p.nbytes for p in model.parameters()), sum(len(r.input_ids) for r in rows)
    assert [found.smoothing for found in (plain, *around)] == [0, size, size, size]
    above = [found.peak - plain.peak for found in around]
    assert above[:2] == pytest.approx([size, size], rel=0.01)
    assert size < above[2] <= 2 * size
    passes = [found.tokens / tokens for found in (plain, *around)]
    assert passes == [1, 2, 1, 3]


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/job/step", "job/memory.max"),
        ("7:memory:/job/step", "memory/job/memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_a_job_is_found_above_the_process(
    tmp_path: Path, line: str, file: str
) -> None:
    """Whichever group on the way up has it, in both versions of control groups."""
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("4096\n", encoding="ascii")
    (tmp_path / "groups").write_text(f"1:cpu:/job\n{line}\n", encoding="utf-8")
    assert [*memory._limits(tmp_path / "groups", tmp_path)] == [4096]
