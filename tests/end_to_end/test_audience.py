"""A run of which nobody hears any more, and commands whose streams are closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Outcome, Workplace, steps
from unlearn_cli.runs import RunFolder

pytestmark = pytest.mark.slow


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def dead_terminal() -> int:
    """One whose window was closed: a display is drawn, and every write is refused."""
    master, terminal = os.openpty()
    os.close(master)
    return terminal


@pytest.fixture(params=[full_disk, pipe_without_reader, dead_terminal])
def nobody(request: pytest.FixtureRequest) -> Iterator[int]:
    descriptor: int = request.param()
    yield descriptor
    os.close(descriptor)


def start(place: Workplace, *args: str, out: int, err: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "unlearn_cli", *args],
        cwd=place.folder,
        env=place.environment(),
        stdout=out,
        stderr=err,
    )


def test_a_run_ends_though_its_progress_cannot_be_written(
    place: Workplace, finished: tuple[Workplace, Outcome, Path], nobody: int
) -> None:
    """stderr is full, or nobody reads it: exit code 0, and the table on stdout."""
    run = start(place, "run", "spec.toml", out=subprocess.PIPE, err=nobody)
    out, _ = run.communicate(timeout=120)

    assert run.returncode == 0
    assert b"forget.probability" in out
    assert RunFolder(place.run_folder("tiny")).manifest["status"] == "finished"


@pytest.mark.usefixtures("heard")
def test_ctrl_c_is_an_interrupt_though_nobody_hears_of_it(
    place: Workplace, finished: tuple[Workplace, Outcome, Path]
) -> None:
    """`unlearn run ... 2>&1 | tee log`, where tee gets the Ctrl-C first: 130, and the folder says
    that the run was interrupted."""
    reading, writing = os.pipe()
    process = start(
        place, "run", "spec.toml", "--set", "train.steps=100000", out=writing, err=writing
    )
    os.close(writing)
    run = place.run_folder("tiny")
    while process.poll() is None and not steps(run):
        time.sleep(0.01)
    os.close(reading)
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    assert RunFolder(run).manifest["status"] == "interrupted"


def closing(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_closed_streams_lead_nowhere(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """As `>&-` closes them, or cron: the command works, in silence on what is closed; a command
    that fails keeps its exit code."""
    command = [sys.executable, "-m", "unlearn_cli"]
    told = {"preexec_fn": closing(*closed), "capture_output": True, "cwd": tmp_path}
    listed = subprocess.run([*command, "list-methods"], check=False, **told)  # type: ignore[call-overload]
    wrong = subprocess.run([*command, "show", "nothing"], check=False, **told)  # type: ignore[call-overload]

    assert (listed.returncode, wrong.returncode) == (0, 2)
    assert listed.stderr == b""
    assert (b"npo" in listed.stdout) == (1 not in closed)
    assert (b"there is no" in wrong.stderr) == (2 not in closed)


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    """What a library prints to stdout would otherwise stand in the next file that is opened."""
    code = "from unlearn_cli.streams import open_closed; open_closed(); import os, sys;"
    code += "sys.stderr.write(f'{open(os.devnull).fileno()} {sys.stdout.fileno()}')"
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=closing(0, 1), capture_output=True, check=True
    )

    assert done.stderr == b"3 1"
