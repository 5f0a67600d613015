"""Versions and hardware that a result may depend on. Imports no torch."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from unlearn_cli.errors import UsageError

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
ENDPOINT = "HF_ENDPOINT"
"""Variable with the address of a mirror of the hub."""
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


def refuse_endpoint() -> None:
    """Raise UsageError where the hub's library would not start for what the address of its mirror
    is, without showing any of it: a part of a password is taken for a port there."""
    try:
        _ = urlsplit(os.environ.get(ENDPOINT, "")).port
    except ValueError:
        hint = "write https://HOST, and in a password %2F for /, %3F for ?, %23 for #, %40 for @"
        raise UsageError("is no address of a hub", where=ENDPOINT, hint=hint) from None
