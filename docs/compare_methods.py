"""Write docs/methods.md: every method on the data of the preset `quickstart`.

`nox -s compare_methods` runs it; runs that are finished in FOLDER are not made again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from unlearn_cli import catalog
from unlearn_cli.api.evaluate import Number
from unlearn_cli.results import Result, read_result

PAGE = Path(__file__).with_name("methods.md")
SEEDS = (0, 1, 2)
BLOCKS = 'method.parameters=["*.layers.[01].*"]'
SETTINGS: dict[str, tuple[str, ...]] = {
    "adaptive_rmu": ("method.layer=*.layers.1", BLOCKS),
    "alt_po": ("data.alternates=model", "alternates.max_new_tokens=20"),
    "rmu": ("method.layer=*.layers.1", BLOCKS),
    "rr": ('method.read=["*.layers.1","*.layers.2"]',),
    "whp": ("reinforce.learning_rate=5e-4",),
}
"""What a method cannot do without on a small model of three blocks; else its defaults are taken."""
HEAD = """# Every method on the quickstart data

Written by `nox -s compare_methods`, not by hand. Means over the seeds {seeds}, and in brackets from
the least to the most. The targets give the forget answers a probability of {target}.

Every method has the schedule of the preset `quickstart` (100 steps, learning rate 5e-4), which was
tuned for `simnpo`, and the published defaults of its own options, which were tuned on models a
thousand times as large. So a row says that a method runs here and what it does untuned; it does not
say which method is better. Seconds are of a machine that may have had other work. What differs,
because so small a model, or the name of the method, asks for it:
"""
COLUMNS = ("forget_quality", "forget.probability", "kept_utility", "train_seconds")


def main(folder: Path) -> int:
    """Make the runs that are missing, then the page."""
    rows = []
    for method in catalog.plugins("method"):
        if method.distribution == "unlearn-cli":
            results = [_result(folder, method.name, seed) for seed in SEEDS]
            rows.append(_row(method.name, results))
    PAGE.write_text("\n".join([*_head(results), *rows]) + "\n", encoding="utf-8")
    return 0


def _result(folder: Path, method: str, seed: int) -> Result:
    name = f"{method}-{seed}"
    if not (folder / name / "report.html").exists():
        settings = (
            () if method == "simnpo" else (f"method.name={method}", *SETTINGS.get(method, ()))
        )
        command = ["run", "quickstart", "--seed", str(seed), "--name", name]
        for setting in (f"output.folder={folder}", *settings):
            command += ["--set", setting]
        command += ["--resume"] if (folder / name / "spec.toml").exists() else []
        subprocess.run([sys.executable, "-m", "unlearn_cli", *command], check=True)
    return read_result(folder / name)


def _row(method: str, results: list[Result]) -> str:
    verdicts = [result.verdict for result in results]
    said = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    figures = [_figure([result.after[column] for result in results]) for column in COLUMNS]
    return f"| `{method}` | {' | '.join(figures)} | {said} |"


def _figure(numbers: list[Number]) -> str:
    values = [number.value for number in numbers if number.value is not None]
    if not values:
        return "-"
    return f"{sum(values) / len(values):.3g} ({min(values):.2g} to {max(values):.2g})"


def _head(results: list[Result]) -> Iterator[str]:
    target = _figure([result.before["forget.probability"] for result in results])
    yield HEAD.format(seeds=", ".join(map(str, SEEDS)), target=target)
    for name, settings in SETTINGS.items():
        yield f"- `{name}`: {', '.join(f'`{setting}`' for setting in settings)}"
    heads = "forget quality ↑", "forget probability", "utility kept", "seconds of training"
    yield f"\n| method | {' | '.join(heads)} | verdict |"
    yield "|---" * 6 + "|"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
