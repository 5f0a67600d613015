"""How fast and how small: ours against the plain way, side by side. `nox -s bench` runs it.

Each comparison runs in processes of its own: one in which the two take turns, step by step, for the
time (medians), and one a side for the peak memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from baseline import Baseline
from ours import Ours
from products import products
from setup import CASES, Case, Options, find_model, make_unlearning, own_folder

from unlearn_cli.engine import memory

EVALUATION, BF16, PRODUCTS = "evaluation", "bf16", "bf16, products"
MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """One comparison; seconds are medians."""

    name: str
    baseline_seconds: float
    our_seconds: float
    own_share: float | None
    """Of our step, what is neither forward pass, backward pass nor optimizer."""
    reference_seconds: float | None
    """Of our step, its part of the reference pass; `our_seconds` has it."""
    baseline_bytes: int = 0
    our_bytes: int = 0

    @property
    def faster(self) -> float:
        """Times."""
        return self.baseline_seconds / self.our_seconds

    @property
    def memory(self) -> float | None:
        """Ours, as a share of the other's; None where it was not measured."""
        return self.our_bytes / self.baseline_bytes if self.baseline_bytes else None


def main() -> int:
    """Parse, measure in child processes, print the table, write JSON."""
    arguments = _parser().parse_args()
    if arguments.child:
        print(json.dumps(_child(json.loads(arguments.child))))
        return 0
    names = arguments.only or [*(case.name for case in CASES), EVALUATION, BF16, PRODUCTS]
    with own_folder() as folder:
        os.environ["UNLEARN_CACHE"] = str(folder / "cache")
        options = Options(
            model=find_model(arguments.shape, folder),
            tofu=arguments.tofu and str(Path(arguments.tofu).absolute()),
            batch=arguments.batch,
            precision=arguments.precision,
            dtype=arguments.dtype,
            repeats=arguments.repeats,
        )
        print(_head(options))
        found = [_compare(name, options) for name in names]
    if arguments.json:
        rows = [asdict(one) | {"faster": one.faster, "memory": one.memory} for one in found]
        text = json.dumps(
            {"options": asdict(options), "machine": _machine(), "rows": rows}, indent=1
        )
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a comparison, by its name; repeatable")
    parser.add_argument("--tofu", help="folder with TOFU's rows; made-up people without it")
    parser.add_argument("--shape", choices=("135m", "1b"), default="135m")
    parser.add_argument("--batch", type=int, default=4, help="forget rows a step")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="autocast")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=7, help="measured steps of each side")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _head(options: Options) -> str:
    rows = "TOFU" if options.tofu else "made-up people"
    return (
        f"{Path(options.model).name}, {rows}, {options.batch} + {options.batch} rows a step, "
        f"{options.dtype}, autocast {options.precision}; {_machine()}\n"
        f"{'':16} {'baseline s':>10} {'ours s':>8} {'faster':>7} {'own':>6} "
        f"{'baseline MiB':>13} {'ours MiB':>9} {'memory':>7}"
    )


def _compare(name: str, options: Options) -> Measured:
    timed = _run({"name": name, "options": asdict(options)})
    found = Measured(name, **timed)
    if name not in (BF16, PRODUCTS):
        peaks = [_run({"name": name, "options": asdict(options), "side": side}) for side in (0, 1)]
        found = replace(found, baseline_bytes=peaks[0]["bytes"], our_bytes=peaks[1]["bytes"])
    own = "" if found.own_share is None else f"{found.own_share:.1%}"
    memory = "" if found.memory is None else f"{found.memory:.2f}x"
    print(
        f"{name:16} {found.baseline_seconds:10.3f} {found.our_seconds:8.3f} {found.faster:6.2f}x "
        f"{own:>6} {found.baseline_bytes / MIB:13.0f} {found.our_bytes / MIB:9.0f} "
        f"{memory:>7}",
        flush=True,
    )
    return found


def _run(task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(task: dict[str, Any]) -> dict[str, Any]:
    options, name = Options(**task["options"]), task["name"]
    case = next((case for case in CASES if case.name == name), CASES[0])
    with own_folder() as folder:
        if "side" in task:
            return {"bytes": _peak(name, case, options, folder, ours=bool(task["side"]))}
        return _times(name, case, options, folder)


def _times(name: str, case: Case, options: Options, folder: Path) -> dict[str, Any]:
    if name == EVALUATION:
        plain = Baseline(case, options, make_unlearning(case, options, folder))
        ours = Ours(case, options, make_unlearning(case, options, folder))
        first, second = _alternate([plain.evaluate, ours.evaluate], max(1, options.repeats // 3))
        return _seconds(first, second)
    start = make_unlearning(case, options, folder)
    if name == PRODUCTS:
        tasks = [products(start, dtype) for dtype in (torch.float32, torch.bfloat16)]
        return _seconds(*_alternate(tasks, options.repeats))
    other: Baseline | Ours
    if name == BF16:
        other, options = Ours(case, options, start), replace(options, precision="bf16")
    else:
        other = Baseline(case, options, start)
    ours = Ours(case, options, make_unlearning(case, options, folder))
    sides = (other, ours)
    for side in sides:
        side.prepare()
        side.step()  # not measured: memory is allocated, the optimizer makes its state
    first, second = _alternate([side.step for side in sides], options.repeats)
    with ours.clocked() as spent:
        started = time.perf_counter()
        for _ in range(3):
            ours.step()
        _wait()
        own = 1 - spent[0] / (time.perf_counter() - started)
    return _seconds(first, second, own, ours.share)


def _seconds(
    first: Sequence[float], second: Sequence[float], own: float | None = None, share: float = 0.0
) -> dict[str, Any]:
    return {
        "baseline_seconds": statistics.median(first),
        "our_seconds": statistics.median(second) + share,
        "own_share": own,
        "reference_seconds": share or None,
    }


def _alternate(tasks: Sequence[Callable[[], None]], repeats: int) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in tasks]
    for _ in range(repeats):
        for kept, task in zip(seconds, tasks, strict=True):
            gc.collect()
            _wait()
            started = time.perf_counter()
            task()
            _wait()
            kept.append(time.perf_counter() - started)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak(name: str, case: Case, options: Options, folder: Path, *, ours: bool) -> int:
    """Peak bytes of what is measured, the model included, its loading not."""
    side = (Ours if ours else Baseline)(case, options, make_unlearning(case, options, folder))
    _forget_peak()
    if name == EVALUATION:
        side.evaluate()
    else:
        side.prepare()
        for _ in range(3):
            side.step()
    return _peak_bytes()


def _forget_peak() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux alone
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return memory.peak(torch.device("cuda"))
    with suppress(OSError):  # unlike the process's own account, this one can be reset
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return memory.peak(torch.device("cpu"))


if __name__ == "__main__":
    sys.exit(main())
