"""Profiles: what they tell processes is what accelerate's launcher would tell them."""

from __future__ import annotations

import os

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from unlearn_cli import profiles

TOLD = ("ACCELERATE_USE_", "FSDP_")


def launched(name: str) -> dict[str, str]:
    """The environment that `accelerate launch` gives to each process."""
    options = ["--num_processes", "2", "--main_process_port", "0", "script.py"]
    found = launch_command_parser().parse_args(
        ["--config_file", str(profiles.path(name)), *options]
    )
    options = _validate_launch_command(found)[0]
    options.deepspeed_fields_from_accelerate_config = ""  # the launcher sets it in between
    environment: dict[str, str] = (
        prepare_deepspeed_cmd_env(options)[1]
        if options.use_deepspeed
        else prepare_multi_gpu_env(options)
    )
    return environment


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_tells_what_its_file_tells_through_accelerate(name: str) -> None:
    """Every variable that the profile sets has the value that accelerate reads from the same file,
    and accelerate switches on nothing beside it."""
    ours, theirs = profiles.variables(name), launched(name)
    assert {key: theirs[key] for key in ours} == ours
    switched_on = {key for key in theirs if key.startswith(TOLD[0])} - os.environ.keys()
    assert switched_on == {key for key in ours if key.startswith(TOLD[0])}


def test_choosing_a_profile_is_for_this_process_and_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment holds its variables afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    profiles.choose("fsdp2")
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    assert os.environ["FSDP_VERSION"] == "2"


def test_each_profile_says_what_it_does() -> None:
    """One line, as `unlearn profile` prints it."""
    assert profiles.names() == ["ddp", "fsdp2", "zero2", "zero3"]
    assert all(profiles.summary(name).endswith(".") for name in profiles.names())
