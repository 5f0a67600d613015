"""The plan: which rows enter which step."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from unlearn_cli.engine import plan as module
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


def eager(
    forget: int, retain: int, batch_size: int, seed: int, steps: int
) -> Iterator[tuple[list[int], ...]]:
    """What a plan is, written down plainly: everything is drawn at once and cut into steps."""
    epochs = steps * batch_size // forget + 2
    generators = [np.random.default_rng([seed, k]) for k in range(3)]
    order = [k for _ in range(epochs) for k in generators[0].permutation(forget)]
    rounds = epochs * forget // retain + 1 if retain else 0
    pairs = [k for _ in range(rounds) for k in generators[1].permutation(retain)]
    draws = generators[2].integers(2**31, size=epochs * forget).tolist()
    first = 0
    for _ in range(steps):
        last = min(first + batch_size, (first // forget + 1) * forget)
        yield order[first:last], pairs[first:last], draws[first:last]
        first = last


@pytest.mark.parametrize("block", [1, 7, 2**16])
@pytest.mark.parametrize(
    ("forget", "retain", "batch_size"), [(10, 3, 4), (5, 12, 8), (9, 0, 3), (33, 33, 7)]
)
def test_steps_are_cut_from_one_walk_in_whatever_order_they_are_asked_for(
    forget: int, retain: int, batch_size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards, again, and at random: the same draws, which the block size does not decide."""
    monkeypatch.setattr(module, "BLOCK", block)
    expected = list(eager(forget, retain, batch_size, 5, 40))
    plan = make_plan(forget=forget, retain=retain, batch_size=batch_size, seed=5, steps=40)
    assert len(plan.steps) == 40
    for k in [*range(40), *np.random.default_rng(0).permutation(40).tolist(), -1]:
        step = plan.steps[k]
        assert (step.forget.tolist(), step.retain.tolist(), step.draw.tolist()) == expected[k]
    assert [step.forget.tolist() for step in plan.steps[3:9:2]] == [e[0] for e in expected[3:9:2]]
    for rows, column in ((plan.forget_rows, 0), (plan.retain_rows, 1)):
        assert rows.tolist() == sorted({row for step in expected for row in step[column]})


def test_a_plan_takes_the_same_memory_for_any_number_of_steps() -> None:
    """Ten million steps, of which the last are drawn; one block of each kind is kept."""
    plan = make_plan(forget=1000, retain=3, batch_size=2, seed=0, steps=10_000_000)
    tracemalloc.start()
    assert len(plan.steps[4000].forget) == 2
    before, _ = tracemalloc.get_traced_memory()
    for step in plan.steps[4001:12_000]:
        assert len(step.retain) == 2
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2**21  # two of the three blocks; the steps would take 8 MB
