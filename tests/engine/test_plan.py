"""The plan: which rows enter which step."""

from __future__ import annotations

import numpy as np

from unlearn_cli.engine.plan import make_plan


def test_an_epoch_walks_every_forget_row_once() -> None:
    """Ten rows in batches of four make steps of 4, 4 and 2 rows that cover each row once."""
    plan = make_plan(forget=10, retain=3, batch_size=4, seed=0, epochs=2)
    assert [len(step.forget) for step in plan.steps] == [4, 4, 2] * 2
    for epoch in (plan.steps[:3], plan.steps[3:]):
        assert sorted(np.concatenate([step.forget for step in epoch])) == list(range(10))


def test_each_forget_row_has_one_retain_row() -> None:
    """Retain rows are aligned with forget rows, and none repeats before all had their turn."""
    plan = make_plan(forget=6, retain=9, batch_size=3, seed=1, epochs=3)
    assert all(len(step.forget) == len(step.retain) for step in plan.steps)
    drawn = np.concatenate([step.retain for step in plan.steps])
    assert sorted(drawn[:9]) == sorted(drawn[9:18]) == list(range(9))


def test_the_seed_decides_the_plan() -> None:
    """The same seed draws the same rows, another seed draws others."""
    plans = [
        make_plan(forget=50, retain=50, batch_size=8, seed=seed, epochs=1) for seed in (3, 3, 4)
    ]
    orders = [np.concatenate([step.forget for step in plan.steps]).tolist() for plan in plans]
    assert orders[0] == orders[1] != orders[2]


def test_steps_take_precedence_and_may_end_within_an_epoch() -> None:
    """`steps` is a number of optimizer steps, whatever an epoch is."""
    plan = make_plan(forget=10, retain=0, batch_size=4, seed=0, steps=5)
    assert len(plan.steps) == 5
    assert plan.steps_per_epoch == 3
    assert plan.epoch(5) == 5 / 3
    assert all(len(step.retain) == 0 for step in plan.steps)


def test_without_a_retain_set_the_forget_order_is_the_same() -> None:
    """The retain set's size does not change which forget rows a step takes."""
    alone, paired = (
        make_plan(forget=20, retain=retain, batch_size=6, seed=5, epochs=2) for retain in (0, 7)
    )
    for a, b in zip(alone.steps, paired.steps, strict=True):
        assert a.forget.tolist() == b.forget.tolist()
        assert a.draw.tolist() == b.draw.tolist()
