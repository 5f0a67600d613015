"""How long a run takes to begin, and what memory it takes, with very many rows.

    nox -s big_data -- --rows 1000000

Made rows, as many to forget as to keep, and a tiny model made in code. The same start is made
twice, each in a process of its own: reading, overlap, tokenisation, the plan; then the reference
pass over what a few steps draw, and these steps. Memory is counted from after the imports: the
process's own (anonymous), and all that is resident, with what is mapped from files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MIB = 2**20
SPEC = """
name = "big"
[model]
path = "{folder}/model"
[data]
forget = "{folder}/forget.jsonl"
retain = "{folder}/retain.jsonl"
[method]
name = "npo"
[train]
epochs = {epochs}
batch_size = 32
learning_rate = 1e-5
[output]
folder = "{folder}/runs"
"""


def main() -> None:
    """Make the rows, start twice, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="to forget; as many to keep")
    parser.add_argument("--epochs", type=float, default=1, help="of the plan")
    parser.add_argument("--steps", type=int, default=20, help="steps that are taken")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        sys.stdout.write(json.dumps(start(options.start, options.steps)) + "\n")
        return
    with TemporaryDirectory(prefix="unlearn-bench-") as folder:
        spec = prepare(Path(folder), options.rows, options.epochs)
        for name in ("first", "second"):
            sys.stdout.write(f"{name} start, {options.rows} + {options.rows} rows\n")
            for what, value in _in_a_process(spec, options.steps).items():
                sys.stdout.write(f"  {what}: {value:.1f}\n")
            sys.stdout.flush()


def prepare(folder: Path, rows: int, epochs: float) -> Path:
    """Write rows, model and spec; the path of the spec."""
    from unlearn_cli.engine.builtin import make_tiny
    from unlearn_cli.engine.models import save_model

    for split in ("forget", "retain"):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for k in range(rows):
                row = {
                    "question": f"Where does person {k} of the {split} set live, and since when?",
                    "answer": f"At number {k * 7919 % rows} of Mill Lane, since {1900 + k % 120}.",
                }
                file.write(json.dumps(row) + "\n")
    save_model(*make_tiny(_sample(folder), 0), folder / "model")
    spec = folder / "spec.toml"
    spec.write_text(SPEC.format(folder=folder, epochs=epochs), encoding="utf-8")
    return spec


def _sample(folder: Path) -> list[str]:
    with (folder / "retain.jsonl").open(encoding="utf-8") as file:
        return [line for line, _ in zip(file, range(1000), strict=False)]


def _in_a_process(spec: Path, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--start", str(spec), "--steps", str(steps)]
    environment = os.environ | {"UNLEARN_CACHE": str(spec.parent / "cache")}
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def start(path: Path, steps: int) -> dict[str, float]:
    """What one start takes: of the whole plan, and of a run of some steps."""
    began = time.perf_counter()
    from unlearn_cli.engine.dry_run import dry_run
    from unlearn_cli.engine.run import execute
    from unlearn_cli.spec import load_spec

    figures = {"imports, s": time.perf_counter() - began}

    def measure(what: str, task: Callable[[], object]) -> None:
        with peak() as found:
            began = time.perf_counter()
            task()
            figures[f"{what}, s"] = time.perf_counter() - began
        figures.update({f"{what}, {kind}, MiB": value / MIB for kind, value in found.items()})

    measure("plan", lambda: dry_run(load_spec(str(path)), lambda event: None))
    some = load_spec(str(path), [f"train.steps={steps}", f"name=run-{os.getpid()}"])
    text = path.read_text(encoding="utf-8")
    measure(f"{steps} steps", lambda: execute(some, text, resume=False, listener=lambda _: None))
    return figures


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Fills in by how much memory grew within, at its highest, bytes."""
    before, found, ended = _memory(), dict[str, float](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for name, value in _memory().items():
                found[name] = max(found.get(name, 0), value - before[name])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes: dict[str, Any] = dict(line.split(":", 1) for line in lines)
    names = {"RssAnon": "memory of its own", "VmRSS": "with mapped files"}
    return {what: 1024 * int(sizes[name].split()[0]) for name, what in names.items()}


if __name__ == "__main__":
    main()
