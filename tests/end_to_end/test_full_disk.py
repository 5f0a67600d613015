"""A disk that is full: one line that says so, and a run that goes on once there is room."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from tests.end_to_end.conftest import Here, Workplace, weights

pytestmark = pytest.mark.slow
MIB = 2**20


def limit(size: int) -> Callable[[], None]:
    """No file may grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    "size",
    [pytest.param(MIB, id="weights"), pytest.param(4 * MIB, id="optimizer")],
)
def test_a_full_disk_stops_the_run_which_resumes_when_there_is_room(
    place: Workplace, here: Here, size: int
) -> None:
    """The weights take 3 MB and the optimizer twice that. Neither half-written file is taken for
    a checkpoint, the message is one line, and `--resume` finishes the run."""
    every = ("--set", "checkpoints.every=2", "--set", "evaluate=[]")
    outcome = place.unlearn("run", "spec.toml", *every, preexec_fn=limit(size))
    assert outcome.code == 1
    (line,) = outcome.errors
    assert "cannot be written" in line
    assert "--resume" in line
    assert "Traceback" not in outcome.err
    run = place.run_folder("tiny")
    assert list((run / "checkpoints").iterdir()) == []
    assert here("run", "spec.toml", *every, "--resume").code == 0
    assert weights(run / "model")
