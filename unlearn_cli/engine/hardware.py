"""What decides the last bits of a result, beside versions: devices, threads, kernels, types."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from unlearn_cli.engine.memory import ram


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """Devices, threads and kernels of this run, as the manifest keeps them; on all processes."""
    cudnn: Any = torch.backends.cudnn  # untyped
    return {
        "processes": accelerator.num_processes,
        "distribution": accelerator.distributed_type.value,
        "devices": sorted({*gather_object([_name(accelerator.device)])}),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
    }


def devices() -> list[tuple[str, int]]:
    """What torch sees here, and its memory in bytes (0 where that is not known): accelerators, and
    last the machine itself."""
    found = [
        (f"cuda:{n} {torch.cuda.get_device_name(n)}", torch.cuda.mem_get_info(n)[1])
        for n in range(torch.cuda.device_count())
    ]
    other = torch.accelerator.current_accelerator()
    if other and other.type != "cuda" and torch.accelerator.is_available():
        found.append((other.type, 0))
    return [*found, ("cpu", ram())]


def backend(model: Any) -> dict[str, str]:
    """In which type the model computes, and by which attention."""
    attention = getattr(model.config, "_attn_implementation", None)
    return {"dtype": str(model.dtype).removeprefix("torch."), "attention": str(attention)}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
