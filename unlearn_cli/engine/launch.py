"""How accelerate starts several processes on this machine."""

from __future__ import annotations

import sys

import torch


def launcher(processes: int) -> list[str]:
    """The command that starts `processes` processes: one a GPU, or all on the CPU."""
    gpus = torch.cuda.device_count()
    device = ["--multi_gpu"] if gpus >= processes > 1 else [] if gpus else ["--cpu"]
    count = ["--num_processes", str(processes), "--num_machines", "1"]
    quiet = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [sys.executable, "-m", "accelerate.commands.launch", *count, *device, *quiet]
