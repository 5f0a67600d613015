"""The checks of the project, all of them: `nox`. One alone: `nox -s types`."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
BIN = ROOT / ".nox" / "dev" / "bin"
CONSTRAINTS = ("-c", "constraints.txt")
PROJECT = nox.project.load_toml("pyproject.toml")
DEV = nox.project.dependency_groups(PROJECT, "dev")
SITE = nox.project.dependency_groups(PROJECT, "site")


@nox.session(default=False, reuse_venv=True)
def dev(session: nox.Session) -> None:
    """Make the environment that the checks share: torch is too large to install for each."""
    session.install("--quiet", *CONSTRAINTS, "-e", ".[gguf,lora,optuna,tensorboard]", *DEV)


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


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel in a clean environment, and a stranger's plugin beside it."""
    built = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(built, ignore_errors=True)
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), ".")
    wheels = [str(path) for path in built.glob("*.whl")]
    session.install("--quiet", *CONSTRAINTS, *wheels, "./docs/example-plugin")
    example = ROOT / "docs" / "example-plugin" / "try-myalgo.toml"
    session.chdir(session.create_tmp())  # away from the sources, which Python would find first
    shutil.rmtree("runs", ignore_errors=True)
    session.run("unlearn", "list-methods")
    session.run("unlearn", "hello-myalgo")
    session.run("unlearn", "run", str(example), env={"UNLEARN_CACHE": "cache"})
    model = "from transformers import AutoModelForCausalLM as M; M.from_pretrained(r'{}')"
    session.run("python", "-c", model.format("runs/try-myalgo/model"))


@nox.session(venv_backend="none", requires=["dev"])
def tests(session: nox.Session) -> None:
    """All tests, warnings as errors; `nox -s tests -- -k name` runs some."""
    session.run(f"{BIN}/python", "-m", "pytest", *session.posargs)
