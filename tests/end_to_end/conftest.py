"""The real command on a tiny model: in a process of its own, or called here where that is enough.

All tests share one cache, so the target and the retain reference are made once.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

SPEC = """
name = "tiny"

[data]
dataset = "people"
forget_people = 2
retain_people = 3
holdout_people = 1
paraphrased_people = 1
questions = 2
max_length = 64

[target]
base = "builtin:tiny"
epochs = 2
batch_size = 16
learning_rate = 1e-3

[method]
name = "simnpo"

[train]
steps = 4
batch_size = 2
learning_rate = 1e-4

[[evaluate]]
evaluator = "tofu"
max_new_tokens = 4
batch_size = 64
"""
TIMEOUT = 120  # seconds


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Its lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@dataclass(frozen=True)
class Workplace:
    """A folder with a spec, and the command to call in it."""

    folder: Path
    cache: Path

    @property
    def spec(self) -> Path:
        return self.folder / "spec.toml"

    def run_folder(self, name: str) -> Path:
        return self.folder / "runs" / name

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """One thread, so that the same sums are taken in the same order; never the network."""
        own = {"UNLEARN_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return os.environ | own | {"PYTHONWARNINGS": "ignore"} | dict(extra or {})

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """`unlearn ARGS` in a process of its own, not waited for."""
        return self._start([sys.executable, "-m", "unlearn_cli", *args], **options)

    def unlearn(self, *args: str, **options: Any) -> Outcome:
        """`unlearn ARGS` in a process of its own."""
        return finish(self.start(*args, **options))

    def launch(self, *args: str, profile: str) -> Outcome:
        """`accelerate launch -m unlearn_cli ARGS` with two processes and the file of a profile."""
        file = self.unlearn("profile", profile).out.strip()
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
        count = ["--num_processes", "2", "--main_process_port", "0"]
        return finish(self._start([*launcher, *count, "-m", "unlearn_cli", *args]))

    def torchrun(self, *args: str) -> Outcome:
        """`torchrun -m unlearn_cli ARGS` with two processes."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return finish(self._start([*launcher, "--nproc-per-node=2", "-m", "unlearn_cli", *args]))

    def _start(
        self, command: list[str], extra: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


Here = Callable[..., Outcome]


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a process that `start` gave."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return Outcome(process.returncode, out, err)


def weights(folder: Path) -> str:
    """sha256 of the weights in a model folder, bit for bit."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def events(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """The log of a run; a line that is still being written is left out."""
    log = run / "events.jsonl"
    lines = log.read_text("utf-8").split("\n")[:-1] if log.exists() else []
    found = [json.loads(line) for line in lines]
    return [entry for entry in found if kind in ("", entry["event"])]


def steps(run: Path) -> list[int]:
    """The steps of unlearning in the log of a run, in its order."""
    return [entry["step"] for entry in events(run, "StepDone") if entry["stage"] == "train"]


def evaluation(run: Path, place: str, evaluator: str = "tofu") -> dict[str, Any]:
    """A stored evaluation of a run."""
    text = (run / "evaluations" / place / f"{evaluator}.json").read_text("utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path) -> Workplace:
    """An empty folder with the tiny spec."""
    (tmp_path / "spec.toml").write_text(SPEC, encoding="utf-8")
    return Workplace(tmp_path, cache)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> tuple[Workplace, Outcome, Path]:
    """The tiny spec, run once, undisturbed: where, what it said, and its run folder."""
    place = Workplace(tmp_path_factory.mktemp("finished"), cache)
    place.spec.write_text(SPEC, encoding="utf-8")
    return place, place.unlearn("run", "spec.toml"), place.run_folder("tiny")


@pytest.fixture
def here(
    place: Workplace,
    finished: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Here]:
    """`unlearn ARGS` in this process, which saves the start; the target is in the cache."""
    from unlearn_cli.cli import main

    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    # The library has read the environment long ago, and would look for a network for a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(place.folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `place.environment()`, which comes too late for this process

    def call(*args: str) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main(args)
        out, err = capfd.readouterr()
        return Outcome(int(str(left.value.code)), out, err)

    yield call
    torch.set_num_threads(threads)
