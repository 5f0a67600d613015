"""The cache of fine-tuned models: each is made once, whoever asks, and however many at a time."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from unlearn_cli.engine.session import Session
from unlearn_cli.engine.stop import Stopper
from unlearn_cli.engine.target import Models
from unlearn_cli.events import Event, Notice, StageFinished, StepDone
from unlearn_cli.files import lock_file, sha256
from unlearn_cli.spec.load import load_spec
from unlearn_cli.testing import Recorder

SPEC = """
name = "tiny"

[data]
dataset = "people"
forget_people = 1
retain_people = 1
holdout_people = 1
paraphrased_people = 1
questions = 2
max_length = 64

[target]
base = "builtin:tiny"
epochs = 1

[method]
name = "simnpo"
"""

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks on Windows")


class Killed(BaseException):
    """Nothing that is done for errors is done."""


class OtherRun:
    """Makes an entry of the cache: holds its lock, and no entry is there until it ends."""

    def __init__(self, entry: Path) -> None:
        self.entry, self.spare = entry, entry.with_name("spare")
        self.lock = ExitStack()
        assert self.lock.enter_context(lock_file(entry.with_name(f".{entry.name}.lock")))()
        entry.rename(self.spare)

    def finish(self) -> None:
        self.spare.rename(self.entry)
        self.lock.close()

    def die(self) -> None:
        shutil.rmtree(self.spare)
        self.lock.close()


def target(folder: Path) -> tuple[Path, Recorder]:
    """The entry of the target, and what was said on the way to it."""
    (folder / "spec.toml").write_text(SPEC, encoding="utf-8")
    recorder = Recorder()
    session = Session(load_spec(str(folder / "spec.toml")), recorder)
    return Path(Models(session, Stopper()).target()), recorder


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The target, made in a cache of this test."""
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    return target(tmp_path)[0]


@needs_locks
def test_the_second_run_waits_and_takes_what_the_first_made(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another run makes the target, this one says so once and waits; then it uses that
    entry and trains nothing."""
    other = OtherRun(entry)
    looks = iter(range(3))
    monkeypatch.setattr(time, "sleep", lambda _: other.finish() if next(looks) == 2 else None)
    found, said = target(tmp_path)
    assert found == entry
    assert [notice.text for notice in said.of(Notice)] == [
        "another run is making the same: waiting for it"
    ]
    assert [stage.cached for stage in said.of(StageFinished)] == [True]
    assert said.of(StepDone) == []


@needs_locks
def test_the_second_run_takes_over_from_one_that_died(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run ends without the entry: this one makes it."""
    other = OtherRun(entry)
    monkeypatch.setattr(time, "sleep", lambda _: other.die())
    found, said = target(tmp_path)
    assert found == entry
    assert said.of(StepDone)
    assert (entry / "config.json").is_file()


def test_a_target_whose_making_was_killed_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    """Killed in the fourth of six epochs, of two steps each: what three learned is not learned
    again, and the weights are those of a target that nobody disturbed. No checkpoint is left."""
    (tmp_path / "spec.toml").write_text(SPEC.replace("epochs = 1", "epochs = 6"), "utf-8")

    def make(cache: str, kill: int = 0) -> tuple[str, list[int]]:
        said = Recorder()

        def listen(event: Event) -> None:
            said(event)
            if isinstance(event, StepDone) and event.step == kill:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UNLEARN_CACHE", str(tmp_path / cache))
            session = Session(load_spec(str(tmp_path / "spec.toml")), listen)
            with suppress(Killed):
                Models(session, Stopper()).target()
        made = "".join(map(sha256, (tmp_path / cache).glob("models/*/model.safetensors")))
        return made, [step.step for step in said.of(StepDone)]

    whole, every = make("undisturbed")
    assert every == [*range(1, 13)]
    assert make("cache", kill=7) == ("", every[:7])
    assert make("cache") == (whole, every[6:])
    assert not [*(tmp_path / "cache").rglob("*.checkpoints")]


def test_no_model_stays_in_memory(tmp_path: Path, entry: Path) -> None:
    """The base of the target is looked at and let go, also where the target is in the cache."""

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), PreTrainedModel) for thing in gc.get_objects())

    before = alive()
    session = Session(load_spec(str(tmp_path / "spec.toml")), Recorder())
    models = Models(session, Stopper())
    assert models.target() == str(entry)
    assert models.retain_reference() != str(entry)
    assert alive() == before


@needs_locks
def test_a_finished_entry_needs_no_lock(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is complete is used at once, even while somebody holds its lock."""
    monkeypatch.delattr(time, "sleep")
    with lock_file(entry.with_name(f".{entry.name}.lock")) as take:
        assert take()
        found, said = target(tmp_path)
    assert found == entry
    assert said.of(Notice) == []
