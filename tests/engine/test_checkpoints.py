"""Damaged checkpoints are recognised, whichever file it is and however it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.test_train import Setting, each_step
from unlearn_cli.engine.train import Due

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "first bit flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "middle bit flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "last bit flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut by a byte": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\x00",
}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Four steps, with checkpoints of the last two: metrics 2 and 1."""
    made = Setting(tmp_path, keep=2)
    made.trainer.fit(Due(each_step, each_step, {1: 0.0, 2: 1.0, 3: 2.0, 4: 1.0}.get))
    assert made.checkpoints.steps() == [3, 4]
    return made


def test_each_file_damaged_in_each_way_is_named_and_the_one_before_used(setting: Setting) -> None:
    """Every file of the newest checkpoint, `hashes.json` included; and each missing."""
    newest = setting.checkpoints.path(4)
    files = sorted(newest.iterdir())
    assert {"model.safetensors", "optimizer.pt", "state.json", "evaluated.json"} <= {
        file.name for file in files
    }
    for file in files:
        whole = file.read_bytes()
        for how, damage in DAMAGES.items():
            file.write_bytes(damage(whole))
            assert_not_used(setting, file, how)
        file.unlink()
        assert_not_used(setting, file, "missing")
        file.write_bytes(whole)
    state, problems = setting.checkpoints.newest()
    assert state is not None
    assert (state.step, problems) == (4, [])


def assert_not_used(setting: Setting, file: Path, how: str) -> None:
    state, problems = setting.checkpoints.newest()
    assert state is not None, f"{file.name}: {how}"
    assert (state.step, len(problems)) == (3, 1), f"{file.name}: {how}"
    # A hash that changed accuses the file that it is of: the checkpoint is named in any case.
    assert str(file.parent if file.name == "hashes.json" else file) in problems[0]


def test_a_best_checkpoint_that_is_damaged_is_named_and_the_next_best_taken(
    setting: Setting,
) -> None:
    """The best is that of step 3; with a bit of its weights flipped it is that of step 4."""
    assert setting.checkpoints.best_whole() == (3, [])
    weights = setting.checkpoints.path(3) / "model.safetensors"
    weights.write_bytes(DAMAGES["last bit flipped"](weights.read_bytes()))
    best, (problem,) = setting.checkpoints.best_whole()
    assert best == 4
    assert str(weights) in problem


def test_what_a_kill_left_undeleted_goes_when_the_run_is_resumed(setting: Setting) -> None:
    """Half of an old checkpoint: its files are gone but one."""
    left = setting.checkpoints.path(2)
    left.mkdir()
    (left / "state.json").write_text(json.dumps({"step": 2}))
    assert setting.trainer.resume_newest() == 4
    assert setting.checkpoints.steps() == [3, 4]
