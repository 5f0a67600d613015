"""Several processes on this machine; accelerate joins them by what torchrun would tell them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO

import torch
from torch import distributed

from unlearn_cli.engine.stop import handle
from unlearn_cli.errors import RunError
from unlearn_cli.safe_text import first_line

POLL, GRACE = 0.1, 10.0
"""Seconds between two looks at the processes, and until one that others left behind is ended."""


@dataclass
class Worker:
    """One process; what it says on stderr is kept in a file, save for the first process."""

    process: subprocess.Popen[bytes]
    stderr: IO[bytes] | None


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` in each process: one a GPU, or all on the CPU where there is none.

    `accelerate launch --cpu` would start a single one, whatever the number it is given. The first
    process speaks for all: it alone gets the signals that end a run, and tells the others when to
    stop (torchrun would signal them all and then kill them).

    Returns:
        The exit code of the process that failed first, 128 + N where signal N ended it; 0 where
        none failed.
    """
    meeting_place = distributed.TCPStore  # type: ignore[attr-defined]  # its stub leaves it out
    store = meeting_place("localhost", 0, is_master=True, wait_for_workers=False)
    shared = _environment(processes, store.port)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(rank, arguments, shared)) for rank in range(processes)
        ]
        stack.enter_context(_passing_signals_to(workers[0].process))
        code = _wait(workers)
    return code if code >= 0 else 128 - code


def _environment(processes: int, port: int) -> dict[str, str]:
    """What torch and accelerate read; they meet at a store of this process, on a free port."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    meeting = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    return {"OMP_NUM_THREADS": threads} | os.environ | cpu | meeting


@contextmanager
def _worker(rank: int, arguments: Sequence[str], shared: dict[str, str]) -> Iterator[Worker]:
    """A process in a session of its own, which a terminal's Ctrl-C does not reach."""
    with ExitStack() as stack:
        stderr = stack.enter_context(tempfile.TemporaryFile()) if rank else None
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with the user's own arguments
            [sys.executable, *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=stderr,
            start_new_session=True,
        )
        try:
            yield Worker(process, stderr)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _passing_signals_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = handle(pass_on)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _wait(workers: Sequence[Worker]) -> int:
    """Wait for all, or for the first that fails; its exit code."""
    while None in (codes := [worker.process.poll() for worker in workers]) and not any(codes):
        time.sleep(POLL)
    failed = {rank: code for rank, code in enumerate(codes) if code}
    if not failed:
        return 0
    # One that was killed makes the others fail; and what the first has to say, it has said.
    return _failed(workers, min(failed, key=lambda rank: (failed[rank] > 0, rank == 0)))


def _failed(workers: Sequence[Worker], rank: int) -> int:
    """Exit code of a process that failed; say why, unless the first does.

    An error of the user's is every process's, so the first says it too; a bug, or memory that ran
    out, may be one's own.
    """
    first, code = workers[0].process, workers[rank].process.returncode
    try:
        first.wait(GRACE)
    except subprocess.TimeoutExpired:
        first.kill()
    words = _words(workers[rank])
    if code < 0 or first.wait() != code or "Traceback" in words:
        sys.stderr.write(words if "error" in words else _ended(rank, code))
    return int(code)


def lost(error: BaseException) -> RunError | None:
    """The line for what torch says, in as many ways as it has backends, of a process that is gone;
    None of other errors."""
    if not isinstance(error, distributed.DistBackendError) and "gloo/transport" not in str(error):
        return None
    return RunError(
        f"another process of this run has ended, or does not answer ({first_line(error)})",
        where="processes",
        hint="it says why itself, or what started it does; --resume goes on from a checkpoint",
    )


def _ended(rank: int, code: int) -> str:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
    return f"error: process {rank} {how}\n"


def _words(worker: Worker) -> str:
    """What is not on the terminal yet."""
    if worker.stderr is None:
        return ""
    worker.stderr.seek(0)
    return worker.stderr.read().decode("utf-8", "replace")
