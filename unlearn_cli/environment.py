"""Versions and hardware that a result may depend on. Imports no torch."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

PACKAGES = (
    "unlearn-cli",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "rouge-score",
    "bitsandbytes",
    "deepspeed",
    "lm-eval",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def environment() -> dict[str, Any]:
    """Versions and hardware that a result may depend on. Never the host's or the user's name."""
    return {
        "python": platform.python_version(),
        **versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def versions() -> dict[str, str | None]:
    """Versions of the packages that decide numbers."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
