"""Several processes on this machine, as torchrun starts them; accelerate joins them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` in each process: one a GPU, or all on the CPU where there is none.

    `accelerate launch --cpu` would start a single one, whatever the number it is given.

    Returns:
        The exit code of the process that failed first; 0 where none did.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the process has said it
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="unlearn",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0
