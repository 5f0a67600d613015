"""What is said and returned where several processes end."""

from __future__ import annotations

import pytest
import torch

from unlearn_cli.engine import launch

ENDS = "import os, sys, time; at = int(os.environ['RANK']); time.sleep(0.3); {}"
"""Not before the launcher has looked once."""


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        # The first fails because the second was killed.
        ("os.kill(os.getpid(), 9) if at else sys.exit(1)", 137, "process 1 was ended by signal 9"),
        ("sys.exit(1) if at else os.kill(os.getpid(), 9)", 137, "process 0 was ended by signal 9"),
        # An error of the user's, which the first has said.
        ("sys.exit(2)", 2, ""),
        ("sys.exit(3) if at else None", 3, "process 1 ended with 3"),
        ("sys.exit('error: in the second') if at else None", 1, "error: in the second"),
        ("sys.exit(0)", 0, ""),
    ],
)
def test_the_process_that_failed_of_its_own_accord_is_named(
    ends: str,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though all have ended by the time that the launcher looks."""
    monkeypatch.setattr(launch, "POLL", 1.0)
    assert launch.launch(2, ["-S", "-c", ENDS.format(ends)]) == code
    said = capsys.readouterr().err
    assert told in said if told else said == ""
    assert said.count("\n") == bool(told)


def test_a_process_that_is_gone_is_no_bug() -> None:
    """As gloo and as NCCL say it; other errors are not taken for it."""
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection")
    assert launch.lost(gloo)
    assert launch.lost(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert launch.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
