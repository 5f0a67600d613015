"""What becomes of the runs of a sweep when they fail, are interrupted, or have several workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.test_sweep import loader
from unlearn_cli.errors import Interrupted, RunError
from unlearn_cli.files import lock_file
from unlearn_cli.runs import RunFolder
from unlearn_cli.sweep import Variant, variants
from unlearn_cli.workers import LOCKS, Outcome, finished_runs, is_sweep, run_all


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, list[Variant]]:
    """Three runs: b = 1, 2, 3."""
    return variants(loader(tmp_path), [{"method.b": b} for b in "123"], [None], None)


def finish(variant: Variant) -> None:
    RunFolder.create(variant.folder, variant.toml).update_manifest(status="finished")


def test_a_failure_does_not_stop_the_others(planned: tuple[Path, list[Variant]]) -> None:
    """The second and third still run; both failures, ours and a plugin's, are handed back."""
    folder, found = planned

    def run(variant: Variant, _: bool) -> None:
        if variant is found[0]:
            raise RunError("loss is not finite")
        if variant is found[1]:
            raise ZeroDivisionError("of a plugin")
        finish(variant)

    failures = run_all(folder, found, run).failures
    assert [(f.name, f.error) for f in failures] == [
        ("b-1_seed-0", "loss is not finite"),
        ("b-2_seed-0", "ZeroDivisionError('of a plugin')"),
    ]
    assert finished_runs(folder) == [found[2].folder]


def test_again_runs_what_is_not_finished(planned: tuple[Path, list[Variant]]) -> None:
    """The finished run is left alone, the one begun is resumed, the other started."""
    folder, found = planned
    finish(found[0])
    RunFolder.create(found[1].folder, found[1].toml).update_manifest(status="interrupted")
    calls: list[tuple[str, bool]] = []
    run_all(folder, found, lambda variant, resume: calls.append((variant.name, resume)))
    assert calls == [("b-2_seed-0", True), ("b-3_seed-0", False)]


def test_an_interrupt_ends_the_sweep(planned: tuple[Path, list[Variant]]) -> None:
    """Nothing further starts, and the error says how to go on."""
    folder, found = planned
    calls: list[str] = []

    def run(variant: Variant, _: bool) -> None:
        calls.append(variant.name)
        raise Interrupted("stopped after step 3")

    with pytest.raises(Interrupted, match="same `unlearn sweep` again") as raised:
        run_all(folder, found, run)
    assert calls == ["b-1_seed-0"]
    assert raised.value.exit_code == 130


def test_the_list_of_runs_grows(planned: tuple[Path, list[Variant]]) -> None:
    """A wider command adds its runs to the sweep; those before it stay in it."""
    folder, found = planned
    assert not is_sweep(folder)
    run_all(folder, found[:1], lambda *_: None)
    run_all(folder, found[1:], lambda *_: None)
    assert is_sweep(folder)
    listed = json.loads((folder / "sweep.json").read_text("utf-8"))["runs"]
    assert listed["b-1_seed-0"] == {"set": {"method.b": "1"}, "seed": 0}
    assert [*listed] == ["b-1_seed-0", "b-2_seed-0", "b-3_seed-0"]


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    """One error that says which file."""
    (tmp_path / "sweep.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match=r"sweep\.json"):
        finished_runs(tmp_path)


def at_once(*works: Callable[[], object]) -> None:
    """Call all in threads: a lock of a file is held by who opened it, as between processes."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_workers_share_the_runs(planned: tuple[Path, list[Variant]]) -> None:
    """Three workers of three runs: each run is made once, all at the same time, as none ends before
    all have begun; and nobody is left with a failure."""
    folder, found = planned
    all_have_begun, made, outcomes = threading.Barrier(3), list[str](), list[Outcome]()

    def run(variant: Variant, _: bool) -> None:
        made.append(variant.name)
        all_have_begun.wait(30)
        finish(variant)

    at_once(*[lambda: outcomes.append(run_all(folder, found, run))] * 3)
    assert sorted(made) == [variant.name for variant in found]
    assert not [failure for outcome in outcomes for failure in outcome.failures]
    assert len(finished_runs(folder)) == 3


def test_what_another_worker_has_in_hand_is_left_to_it(
    planned: tuple[Path, list[Variant]],
) -> None:
    """It is named, and the others are run."""
    folder, found = planned
    with lock_file(folder / LOCKS / found[1].name) as take:
        assert take()
        outcome = run_all(folder, found, lambda variant, _: finish(variant))
    assert outcome == Outcome([], [found[1].name])
    assert finished_runs(folder) == [found[0].folder, found[2].folder]


def test_what_another_worker_let_fall_is_taken_up(planned: tuple[Path, list[Variant]]) -> None:
    """A worker dies in the first run while this one is in the second: it comes last, resumed."""
    folder, found = planned
    RunFolder.create(found[0].folder, found[0].toml).update_manifest(status="running")
    calls: list[tuple[str, bool]] = []
    with ExitStack() as other:
        assert other.enter_context(lock_file(folder / LOCKS / found[0].name))()

        def run(variant: Variant, resume: bool) -> None:
            calls.append((variant.name, resume))
            other.close()

        run_all(folder, found, run)
    assert calls == [("b-2_seed-0", False), ("b-3_seed-0", False), ("b-1_seed-0", True)]


def test_what_failed_elsewhere_meanwhile_is_not_tried_again(
    planned: tuple[Path, list[Variant]],
) -> None:
    """Its failure is this worker's, too, in the words of its manifest. What had failed before this
    worker came is tried once more."""
    folder, found = planned
    for variant in found[:2]:
        RunFolder.create(variant.folder, variant.toml)
    RunFolder(found[0].folder).update_manifest(status="failed", error="yesterday")
    calls: list[str] = []

    def run(variant: Variant, _: bool) -> None:
        calls.append(variant.name)
        RunFolder(found[1].folder).update_manifest(status="failed", error="out of memory")

    failures = run_all(folder, found, run).failures
    assert calls == ["b-1_seed-0", "b-3_seed-0"]
    assert [(failure.name, failure.error) for failure in failures] == [
        ("b-2_seed-0", "out of memory")
    ]


def test_a_worker_that_needs_a_run_waits_for_it(planned: tuple[Path, list[Variant]]) -> None:
    """With `wait`, what another has in hand is finished, and not run here, when this returns."""
    folder, found = planned
    begun, calls = threading.Event(), list[str]()

    def slowly(variant: Variant, _: bool) -> None:
        begun.set()
        calls.append("there")
        threading.Event().wait(0.2)
        finish(variant)

    def wait() -> None:
        begun.wait(30)
        outcome = run_all(folder, found[:1], lambda *_: calls.append("here"), wait=True)
        assert outcome == Outcome()
        assert finished_runs(folder) == [found[0].folder]

    at_once(lambda: run_all(folder, found[:1], slowly), wait)
    assert calls == ["there"]


def test_no_worker_is_left_off_the_list(planned: tuple[Path, list[Variant]]) -> None:
    """Workers with runs of their own write the one list at once: it has all of them."""
    folder, found = planned
    at_once(*[partial(run_all, folder, [variant], lambda *_: None) for variant in found * 3])
    listed = json.loads((folder / "sweep.json").read_text("utf-8"))["runs"]
    assert sorted(listed) == [variant.name for variant in found]
