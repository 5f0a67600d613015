"""Ways to run on several processes, by name: configurations of accelerate that ship."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path


def names() -> list[str]:
    """The profiles that there are."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a profile: `accelerate launch --config_file` takes it."""
    return _folder() / f"{name}.yaml"


def summary(name: str) -> str:
    """What a profile does, in a line: the first of its file."""
    return path(name).read_text("utf-8").splitlines()[0].removeprefix("# ")


def choose(name: str) -> None:
    """Let this process, and those that it starts, run as a profile says.

    Tells them what `accelerate launch` would: variables named after the keys of the file.
    """
    os.environ.update(variables(name))


def variables(name: str) -> dict[str, str]:
    """The environment variables of a profile."""
    import yaml

    config = yaml.safe_load(path(name).read_text("utf-8"))
    found: dict[str, str] = {}
    for key, value in config.get("fsdp_config", {}).items():
        found |= {"ACCELERATE_USE_FSDP": "true", key.upper(): str(value).lower()}
    for key, value in config.get("deepspeed_config", {}).items():
        name = f"ACCELERATE_DEEPSPEED_{key.upper()}"
        found |= {"ACCELERATE_USE_DEEPSPEED": "true", name: str(value).lower()}
    return found


def told(variable: str) -> bool:
    """Whether a variable of the environment says yes: those of a profile, or of a launcher."""
    return os.environ.get(variable, "false").lower() == "true"


def _folder() -> Path:
    return Path(str(resources.files("unlearn_cli"))) / "profiles"
