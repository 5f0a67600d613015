"""What a disk refuses, at any change of a file: one line that names it, and a run that goes on once
it is mended."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, steps, weights
from tests.end_to_end.moments import moment

pytestmark = pytest.mark.slow


@dataclass
class Disk:
    """Refuses what is told to; a hook that sees all, since none can be taken back."""

    folder: str = ""
    refuses: str = ""
    """Regular expression of moments; empty for none."""
    number: int = 0

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.refuses:
            return
        found = moment(event, arguments, self.folder)
        if found and re.search(self.refuses, found):
            raise OSError(self.number, os.strerror(self.number), str(arguments[0]))


DISK = Disk()
sys.addaudithook(DISK.watch)
RUN = ("run", "spec.toml", "--set", "method.name=npo", "--set", "checkpoints.every=2")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Of the current folder, where the cache is too."""
    DISK.folder = str(tmp_path)
    yield DISK
    DISK.refuses = ""


@pytest.fixture
def warm(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache below the current folder, with what the tests share."""
    (place.folder / "cache").mkdir()
    for kind in ("models", "evaluations"):
        (place.folder / "cache" / kind).symlink_to(place.cache / kind)


WRITES = {
    "the run folder": r"mkdir runs",
    "the lock": r"open \S+/\.lock",
    "the spec": r"open \S+/\.spec\.toml",
    "the manifest": r"open \S+/\.manifest\.json",
    "the end of the manifest": r"rename \S+/\.manifest\.json",
    "the log": r"open \S+/events\.jsonl",
    "an evaluation": r"open \S+/evaluations/step-4/\.tofu\.json",
    "a reference": r"open cache/references/\S+\.npy",
    "the end of a reference": r"rename cache/references/",
    "an optimizer": r"open \S+/\.step-2\.partial/optimizer\.pt",
    "the end of a checkpoint": r"rename \S+/\.step-2\.partial",
    "the end of an old checkpoint": r"rmtree \S+/checkpoints/step-2$",
    "the model": r"mkdir \S+/\.model\.partial",
    "the end of the model": r"rename \S+/\.model\.partial",
    "the report": r"open \S+/\.report\.html",
}
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES)


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_refuses_gets_one_line_and_the_run_goes_on_once_it_is_mended(
    what: str,
    warm: None,
    disk: Disk,
    here: Here,
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Full, read-only or not ours: exit code 1, one line with the file and the reason, and nothing
    is lost: the same command, or its `--resume`, ends the run."""
    monkeypatch.setenv("UNLEARN_CACHE", str(place.folder / "cache"))
    disk.refuses, disk.number = WRITES[what], ERRORS[[*WRITES].index(what) % len(ERRORS)]
    refused(here(*RUN), os.strerror(disk.number))
    disk.refuses = ""
    run = place.run_folder("tiny")
    again = here(*RUN, *(["--resume"] if (run / "spec.toml").exists() else []))
    assert again.code == 0, again.err
    assert steps(run) == [1, 2, 3, 4]
    assert weights(run / "model")


def refused(outcome: Outcome, reason: str) -> None:
    assert outcome.code == 1, outcome.err
    assert "Traceback" not in outcome.err
    (line,) = outcome.errors
    assert reason in line
    assert "runs" in line or "cache" in line, "no file is named"
