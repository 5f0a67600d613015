"""`unlearn doctor` says what there is, and what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Install
from unlearn_cli import doctor, hooks, profiles
from unlearn_cli.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOKEN = "hf-made-up-0123456789"  # noqa: S105 - what must not be found again
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
Look = Callable[..., dict[tuple[str, str], dict[str, Any]]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no login, and the metadata that `pyproject.toml` asks for."""
    needed = [*PROJECT["dependencies"]]
    needed += [f'{text}; extra == "{name}"' for name, texts in EXTRAS.items() for text in texts]
    monkeypatch.setattr(metadata, "requires", lambda _: needed)
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """Run the command; (part, name) -> finding. Its exit code must be the one that is given."""

    def look(code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
        with pytest.raises(SystemExit) as left:
            main(["doctor", "--json"])
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert (left.value.code, told["healthy"]) == (code, code == 0), out + err
        assert TOKEN not in out + err
        return {(found["part"], found["name"]): found for found in told["findings"]}

    return look


def test_a_sound_installation(look: Look) -> None:
    """Versions, the machine's memory, every extra and profile, plugins of every kind that work."""
    found = look()
    assert {part for part, _ in found} == {*doctor.PARTS}
    assert found["version", "torch"]["text"] == metadata.version("torch")
    assert 0 < found["device", "cpu"]["value"] <= psutil.virtual_memory().total
    methods = PROJECT["entry-points"]["unlearn.methods"]
    assert found["plugin", "methods"]["text"] == f"{len(methods)} work"
    assert {name for part, name in found if part == "extra"} == {*EXTRAS}
    assert {*profiles.names()} <= {name for part, name in found if part == "processes"}


def test_every_extra_says_what_it_is_for() -> None:
    """None is forgotten, none is made up."""
    assert {*doctor.GIVES} == {*EXTRAS}


@pytest.mark.parametrize(
    ("versions", "state", "text"),
    [
        ({"peft": "9.0"}, "ok", "peft 9.0, adapters"),
        ({"peft": "0.1"}, "broken", "peft 0.1; needs peft>=0.17"),
        ({}, "missing", "pip install 'unlearn-cli[lora]'"),
    ],
)
def test_an_extra_is_there_or_not_or_too_old(
    versions: dict[str, str], state: str, text: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is no fault; a version that does not do is one."""
    true = metadata.version

    def version(name: str) -> str:
        if name == "peft" and name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or true(name)

    monkeypatch.setattr(metadata, "version", version)
    found = look(1 if state == "broken" else 0)["extra", "lora"]
    assert found["state"] == state
    assert text in found["text"]


def test_a_profile_without_its_extra_is_missing(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO needs DeepSpeed; the other profiles need nothing."""
    true = metadata.version

    def version(name: str) -> str:
        if name == "deepspeed":
            raise metadata.PackageNotFoundError(name)
        return true(name)

    monkeypatch.setattr(metadata, "version", version)
    found = look()
    states = {name: found["processes", name]["state"] for name in profiles.names()}
    assert states == {"ddp": "ok", "fsdp2": "ok", "zero2": "missing", "zero3": "missing"}


def test_broken_plugins_have_their_error(look: Look, install: Install) -> None:
    """One that is not there, one that raises when it is imported, two rivals, and a hook; the rest
    is counted and works."""
    before = look()["plugin", "methods"]["text"]
    install("unlearn-lost", {"unlearn.methods": {"lost": "no_such_module:Lost"}})
    install(
        "unlearn-raises",
        {"unlearn.methods": {"raises": "raises:Raises"}, "unlearn": {"ours": "bad_hooks"}},
        raises="class Raises:\n    pass\n\nraise ValueError('on import')\n",
        bad_hooks="raise RuntimeError('no hooks today')\n",
    )
    install("unlearn-rival", {"unlearn.metrics": {"rouge": "raises:Raises"}})
    hooks.loaded.cache_clear()
    try:
        found = look(1)
    finally:
        hooks.loaded.cache_clear()
    assert "no module no_such_module" in found["plugin", "lost@unlearn-lost"]["text"]
    assert "ValueError: on import" in found["plugin", "raises@unlearn-raises"]["text"]
    assert "is claimed by" in found["plugin", "rouge@unlearn-rival"]["text"]
    assert "no hooks today" in found["plugin", "hooks"]["text"]
    assert found["plugin", "methods"]["text"] == before


def test_the_cache_has_its_sizes(look: Look, tmp_path: Path) -> None:
    """By kind, in bytes; and whether it can be written."""
    (tmp_path / "cache" / "models" / "a").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "a" / "x").write_bytes(b"1234")
    (tmp_path / "cache" / "models" / "y").write_bytes(b"123")
    found = look()
    assert found["cache", "models"]["value"] == 7
    assert found["cache", "free"]["value"] > 0


def test_a_cache_that_cannot_be_written_is_broken(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part that cannot be looked at hides no other."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "file"))
    found = look(1)
    assert "the cache cannot be written" in found["cache", ""]["text"]
    assert found["hub", "address"]["state"] == "ok"


def test_the_hub_is_told_without_secrets(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a token that there is one; of the mirror's address no password."""
    assert look()["hub", "token"]["state"] == "missing"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{TOKEN}@mirror.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = look()
    assert found["hub", "token"]["text"] == "there is one"
    assert found["hub", "address"]["text"] == "https://[hidden]@mirror.example"
    assert found["hub", "offline"]["text"] == "HF_HUB_OFFLINE=1"


def test_an_address_that_is_none_is_found_in_a_fresh_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine does not start with it, and the doctor still says so in lines."""
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{TOKEN}/x@mirror.example")
    command = [sys.executable, "-m", "unlearn_cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    broken = [line for line in done.stdout.splitlines() if line.startswith("broken")]
    assert any(line.split()[1] == "hub" and "HF_ENDPOINT" in line for line in broken)
    assert TOKEN not in done.stdout
