"""The checks of the project, all of them: `nox`. One alone: `nox -s types`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
BIN = ROOT / ".nox" / "dev" / "bin"
CONSTRAINTS = ("-c", "constraints.txt")
SHARED = ("-n", "auto", "--dist", "worksteal")
ONE_CORE = {"OMP_NUM_THREADS": "1"}
"""More threads than cores only wait for each other."""
PROJECT = nox.project.load_toml("pyproject.toml")
BESIDE = ("deepspeed", "einops", "hjson", "msgpack", "ninja", "py-cpuinfo")
"""DeepSpeed, and what it needs that is not there without it."""
DEV = nox.project.dependency_groups(PROJECT, "dev")
SITE = nox.project.dependency_groups(PROJECT, "site")


@nox.session(default=False, reuse_venv=True)
def dev(session: nox.Session) -> None:
    """Make the environment that the checks share: torch is too large to install for each."""
    session.install(
        "--quiet", *CONSTRAINTS, "-e", ".[gguf,lora,optuna,quantized,sign,tensorboard]", *DEV
    )


@nox.session(venv_backend="none", requires=["dev"])
def lint(session: nox.Session) -> None:
    """Style and common mistakes; `nox -s lint -- --fix` repairs what can be repaired."""
    session.run(f"{BIN}/ruff", "check", *session.posargs)
    session.run(f"{BIN}/ruff", "format", *([] if session.posargs else ["--check"]))


@nox.session(venv_backend="none", requires=["dev"])
def types(session: nox.Session) -> None:
    """Strict types, tests included."""
    session.run(f"{BIN}/mypy")


@nox.session(venv_backend="none", requires=["dev"])
def docs(session: nox.Session) -> None:
    """The reference pages are what the code says."""
    session.run(f"{BIN}/python", "docs/generate.py", "--check")


@nox.session(venv_backend="none", requires=["dev"], default=False)
def write_docs(session: nox.Session) -> None:
    """Write the reference pages again."""
    session.run(f"{BIN}/python", "docs/generate.py")


@nox.session(reuse_venv=True)
def site(session: nox.Session) -> None:
    """The documentation as a site, in `.nox/site/html`; a link or anchor that leads nowhere is an
    error."""
    session.install("--quiet", *CONSTRAINTS, *SITE)
    html = ROOT / ".nox" / "site" / "html"
    shutil.rmtree(html, ignore_errors=True)
    strict = ("--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--fresh-env")
    session.run("sphinx-build", *strict, "-d", str(html.parent / "trees"), "docs", str(html))


@nox.session(venv_backend="none", requires=["dev"], default=False)
def compare_methods(session: nox.Session) -> None:
    """Run every method on the quickstart data, three seeds, and write docs/methods.md."""
    folder = Path(session.create_tmp()) / "runs"
    session.run(f"{BIN}/python", "docs/compare_methods.py", str(folder))


@nox.session(venv_backend="none", requires=["dev"], default=False)
def bench(session: nox.Session) -> None:
    """Time and memory against the plain way: `nox -s bench -- --tofu FOLDER --json FILE`."""
    session.run(f"{BIN}/python", "docs/bench/bench.py", *session.posargs)


@nox.session(requires=["dev"], default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what is pinned, and licences that are not allowed; needs the net."""
    session.install("--quiet", "pip-audit", "pip-licenses")
    licences = ("pip-licenses", "--python", f"{BIN}/python")  # what is allowed: pyproject.toml
    session.run(*licences, "--summary", "--order", "count")
    # Strict: what could not be looked up is no pass.
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", "constraints.txt")


@nox.session(venv_backend="none", requires=["dev"], default=False)
def big_data(session: nox.Session) -> None:
    """Time and memory of a start with very many rows: `nox -s big_data -- --rows 1000000`."""
    session.run(f"{BIN}/python", "docs/bench/big_data.py", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"], default=False)
def torture(session: nox.Session) -> None:
    """Kill runs at 60 moments and resume them: `nox -s torture -- --kills 500 --chance 7`."""
    kills = ("--kills", "60", *session.posargs)
    session.run(f"{BIN}/python", "-m", "pytest", "-s", "tests/end_to_end/test_torture.py", *kills)


@nox.session(venv_backend="none", requires=["dev"], default=False)
def fuzz(session: nox.Session) -> None:
    """Damage 10,000 specs and thousands of data files and results; `-- --mutants 500` more."""
    mutants = ("--mutants", "100", *session.posargs)
    session.run(f"{BIN}/python", "-m", "pytest", "tests/fuzz", *mutants)


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel in a clean environment, and beside it the plugin that it writes."""
    temporary = Path(session.create_tmp())
    built, plugin = temporary / "wheel", temporary / "plugin"
    for folder in (built, plugin, temporary / "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), ".")
    wheels = [str(path) for path in built.glob("*.whl")]
    session.install("--quiet", *CONSTRAINTS, *wheels, "pytest")
    session.run("unlearn", "new-plugin", "myalgo", "--hooks", "--output", str(plugin))
    session.install("--quiet", *CONSTRAINTS, "-e", str(plugin))
    session.chdir(temporary)  # away from the sources, which Python would find first
    session.run("pytest", "-q", "plugin")
    session.run("unlearn", "list-methods")
    session.run("unlearn", "hello-myalgo")
    session.run("unlearn", "run", "plugin/try-myalgo.toml", env={"UNLEARN_CACHE": "cache"})
    model = "from transformers import AutoModelForCausalLM as M; M.from_pretrained(r'{}')"
    session.run("python", "-c", model.format("runs/try-myalgo/model"))


@nox.session(venv_backend="none", requires=["dev"])
def deepspeed(session: nox.Session) -> None:
    """The tests that need DeepSpeed. It lies beside the environment that the checks share, since
    transformers imports it at every save where it is installed."""
    beside = ROOT / ".nox" / "deepspeed"
    shutil.rmtree(beside, ignore_errors=True)
    # Its setup asks torch, so it is built in our environment; nothing is compiled.
    install = ("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--use-pep517")
    built = {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
    session.run(
        f"{BIN}/python", "-m", *install, *CONSTRAINTS, "--target", str(beside), *BESIDE, env=built
    )
    found = {"PYTHONPATH": os.pathsep.join(filter(None, (str(beside), os.getenv("PYTHONPATH"))))}
    session.run(f"{BIN}/python", "-c", "import deepspeed", env=built | found)  # else tests skip
    marked = (*SHARED, "-m", "deepspeed", *session.posargs)
    session.run(f"{BIN}/python", "-m", "pytest", *marked, env=ONE_CORE | found)


@nox.session(venv_backend="none", requires=["dev"])
def tests(session: nox.Session) -> None:
    """All tests, warnings as errors, a process a core; `nox -s tests -- -k name` runs some."""
    session.run(f"{BIN}/python", "-m", "pytest", *SHARED, *session.posargs, env=ONE_CORE)
