"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import settings

# A test says what must hold, never how fast: machines differ.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Install = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the tests that go by chance take; the sessions `torture` and `fuzz` take long."""
    parser.addoption("--kills", type=int, default=2, help="kills of the torture test")
    parser.addoption("--chance", type=int, default=None, help="seed of the torture test")
    parser.addoption("--mutants", type=int, default=1, help="fuzz so many times as much")


def pytest_collection_finish() -> None:
    """Runs in this process search for garbage between their stages: not among all that was imported
    for the tests, which would take a third of their time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """DeepSpeed is not in the environment that all tests share; the session `deepspeed` has it."""
    if item.get_closest_marker("deepspeed") and find_spec("deepspeed") is None:
        pytest.skip("the extra deepspeed is not installed")


@pytest.fixture
def heard() -> Iterator[None]:
    """Tests that are left running (`nohup`) do not hear that the terminal is gone, those that a
    script starts in the background (`&`) do not hear Ctrl-C, nor does what they start; while this
    lasts they do."""
    lost = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopped = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, lost)
    signal.signal(signal.SIGINT, stopped)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps the precision of the first run in a process: no test leaves it to others."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a made-up distribution for one test: metadata and modules on `sys.path`.

    `install("unlearn-extra", {"unlearn.methods": {"npo": "extra_npo:NPO"}}, extra_npo="...")`
    """

    def install(name: str, entry_points: Mapping[str, Mapping[str, str]], **modules: str) -> Path:
        folder = tmp_path / name
        write_metadata(folder, name, entry_points)
        for module, text in modules.items():
            folder.joinpath(f"{module}.py").write_text(dedent(text), encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        return folder

    before = set(sys.modules)
    yield install
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def install_folder(folder: Path) -> None:
    """What `pip install -e` does for `unlearn`: the metadata that `pyproject.toml` asks for, in the
    folder itself, which the caller puts on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    write_metadata(folder, project["name"], project["entry-points"])


def write_metadata(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """The `.dist-info` of a distribution whose modules stand in `folder`."""
    metadata = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8"
    )
    metadata.joinpath("entry_points.txt").write_text(_ini(entry_points), encoding="utf-8")


def _ini(groups: Mapping[str, Mapping[str, str]]) -> str:
    sections = (
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())])
        for group, entries in groups.items()
    )
    return "\n\n".join(sections) + "\n"
