"""What the tool would work with here: versions, devices, extras, plugins, cache, hub, processes.

Nothing is downloaded and no network is asked. torch is imported late, by the engine. A part that
cannot be looked at is a finding too.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from unlearn_cli import catalog, environment, hooks, profiles
from unlearn_cli.errors import FAULTS, UnlearnError
from unlearn_cli.safe_text import first_line, has_token, redact

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "unlearn-cli"
GIVES = {
    "deepspeed": "the profiles zero2 and zero3",
    "gguf": "models in .gguf files",
    "lm-eval": "the evaluator lm_eval",
    "lora": "adapters: [lora], and as models",
    "optuna": "unlearn sweep --optuna",
    "quantized": "lora.base = nf4, optimizer = adamw_8bit",
    "sign": "certify --key, verify --public-key",
    "tensorboard": "output.tensorboard",
}
"""Extra -> what it is needed for."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

State = Literal["broken", "missing", "ok"]

WORST_FIRST: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    part: str
    name: str
    state: State
    """`missing` is what nobody has to have."""
    text: str
    value: int | None = None
    """Bytes, where it is a size."""


def examine() -> list[Finding]:
    """Look at everything, in the order of the `PARTS`."""
    return [finding for part, look in PARTS.items() for finding in _looked(part, look)]


def _looked(part: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except FAULTS as error:  # to name what is broken is the point
        yield Finding(part, "", "broken", _line(error))


def _line(error: BaseException) -> str:
    if isinstance(error, UnlearnError):
        return error.line()
    return redact(f"{type(error).__name__}: {first_line(error)}")


def _versions() -> Iterator[Finding]:
    yield Finding("version", "python", "ok", platform.python_version())
    core = {needed.name: needed for needed in _requirements("")}
    extras = {needed.name for name in GIVES for needed in _requirements(name)}
    for name, version in environment.versions().items():
        if name not in extras and name not in core:
            yield Finding("version", name, "ok" if version else "missing", version or "")
    for name, needed in core.items():
        state, text = _fits(needed, "broken")
        yield Finding("version", name, state, text.removeprefix(f"{name} "))


def _extras() -> Iterator[Finding]:
    """An extra is there where all of it is, and broken where a version does not do. One that the
    metadata does not know is younger than the installation."""
    for name, gives in GIVES.items():
        found = [_fits(needed, "missing") for needed in _requirements(name)]
        states: set[State] = {state for state, _ in found} or {"missing"}
        worst = min(states, key=WORST_FIRST.index)
        hint = "" if worst == "ok" else f"; pip install '{DISTRIBUTION}[{name}]'"
        texts = [text for state, text in found if state != "missing"]
        yield Finding("extra", name, worst, ", ".join([*texts, gives]) + hint)


def _requirements(extra: str) -> list[Requirement]:
    """What the extra needs of other distributions, or, without a name, the tool itself."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    return [n for n in found if _wanted(n, extra) and (not extra or not _wanted(n, ""))]


def _wanted(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _fits(needed: Requirement, absent: State) -> tuple[State, str]:
    """Whether a distribution is there, in a version that does."""
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return absent, f"not installed; needs {needed.name}{needed.specifier}"
    if not needed.specifier.contains(version, prereleases=True):
        return "broken", f"{needed.name} {version}; needs {needed.name}{needed.specifier}"
    return "ok", f"{needed.name} {version}"


def _devices() -> Iterator[Finding]:
    from unlearn_cli.engine.hardware import devices

    for name, size in devices():
        yield Finding("device", name, "ok", _gib(size) if size else "", size)


def _plugins() -> Iterator[Finding]:
    """Each is imported; those that work are counted."""
    for kind in catalog.KINDS:
        found = catalog.plugins(kind)
        broken = {p.qualified: wrong for p in found if (wrong := p.error or _wrong(kind, p))}
        yield Finding("plugin", f"{kind}s", "ok", f"{len(found) - len(broken)} work")
        for name, error in broken.items():
            yield Finding("plugin", name, "broken", error)
    for problem in hooks.problems():
        yield Finding("plugin", "hooks", "broken", problem.line())


def _wrong(kind: catalog.Kind, plugin: catalog.Plugin) -> str:
    try:
        catalog.load(kind, plugin.qualified)
    except FAULTS as error:  # whatever it raises is its own fault
        return _line(error)
    return ""


def _cache() -> Iterator[Finding]:
    from unlearn_cli.engine.cache import cache_folder

    folder = cache_folder("")
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    yield Finding("cache", "folder", "ok", f"{folder}, can be written")
    yield Finding("cache", "free", "ok", _gib(free), free)
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        size = sum(_size(path) for path in kind.rglob("*"))
        yield Finding("cache", kind.name, "ok", _gib(size), size)


def _size(path: Path) -> int:
    """Bytes of a file; another process may have deleted it meanwhile."""
    try:
        return path.lstat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _hub() -> Iterator[Finding]:
    environment.refuse_endpoint()
    address = os.environ.get(environment.ENDPOINT) or "https://huggingface.co"
    yield Finding("hub", "address", "ok", redact(address))
    offline = [f"{name}={os.environ[name]}" for name in OFFLINE if os.environ.get(name)]
    yield Finding("hub", "offline", "ok", ", ".join(offline) or "no variable says so")
    token = has_token()
    yield Finding("hub", "token", "ok" if token else "missing", "there is one" if token else "none")


def _processes() -> Iterator[Finding]:
    yield Finding("processes", "cpus", "ok", str(os.cpu_count()))
    deepspeed = next(finding for finding in _extras() if finding.name == "deepspeed")
    for name in profiles.names():
        needed = "ACCELERATE_USE_DEEPSPEED" in profiles.variables(name)
        state = deepspeed.state if needed else "ok"
        hint = "" if state == "ok" else f" Needs the extra {deepspeed.name}."
        yield Finding("processes", name, state, profiles.summary(name) + hint)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


PARTS: dict[str, Callable[[], Iterator[Finding]]] = {
    "version": _versions,
    "device": _devices,
    "extra": _extras,
    "plugin": _plugins,
    "cache": _cache,
    "hub": _hub,
    "processes": _processes,
}
"""What is looked at, and by what."""


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """All of it, for programs."""
    return {"healthy": healthy(findings), "findings": [vars(finding) for finding in findings]}


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is broken."""
    return all(finding.state != "broken" for finding in findings)
