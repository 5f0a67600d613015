"""Numbers and names in a form that people can read; shared by terminal and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn_cli.api.evaluate import Direction
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.safe_text import clean

WANTED: dict[Direction, tuple[str, str]] = {
    "lower": ("↓", "lower is better"),
    "higher": ("↑", "higher is better"),
    "reference": ("→", "as the retain reference"),
}
"""Direction -> sign and meaning."""
UNDER_STRESS = ("forget_quality", "forget.probability", "forget.rouge")
"""Figures that tell whether a stress test brings knowledge back."""


@dataclass(frozen=True)
class Cell:
    """A figure as text, with the reason where there is none."""

    text: str
    reason: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One metric of the models being compared."""

    name: str
    direction: Direction
    cells: tuple[Cell, ...]

    @property
    def set(self) -> str:
        """For people: the evaluation set; empty for a figure over all sets."""
        return self.name.rpartition(".")[0].replace("_", " ")

    @property
    def metric(self) -> str:
        """For people: the metric without its set."""
        return self.name.rpartition(".")[2].replace("_", " ")


def is_stress(evaluation: Evaluation) -> bool:
    """Whether it is of a stress test, and has a figure of `UNDER_STRESS` to show for it."""
    named = set(UNDER_STRESS) & set(evaluation.table.numbers)
    return "inside" in evaluation.settings and bool(named)


def words(metric: str) -> str:
    """The name of a figure, for people."""
    return metric.replace(".", " ").replace("_", " ")


def number(value: float) -> str:
    """Three decimals where they say something, else scientific: 0.042, 12.3, 1.8e-21."""
    if value != 0 and not 5e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """4.2s, 3m 20s, 1h 05m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def size(count: int) -> str:
    """Bytes as MiB or GiB."""
    mebibytes = count / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def compare(models: Sequence[Evaluation | None], missing: Sequence[str]) -> list[MetricRow]:
    """The metrics of several models side by side, in display order.

    Args:
        models: one a column; None where that model was not evaluated.
        missing: for each column, the reason to give where the model is None.
    """
    names: dict[str, Direction] = {}
    for model in models:
        for name, figure in model.table.numbers.items() if model else ():
            names.setdefault(name, figure.direction)
    return [
        MetricRow(
            clean(name),
            direction,
            tuple(_cell(m, name, why) for m, why in zip(models, missing, strict=True)),
        )
        for name, direction in names.items()
    ]


def brief(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Without what only feeds the attacks: the holdout, what the forget set has in common with it,
    and the second figure of each attack."""
    fed = {row.name.partition(".")[2] for row in rows if row.name.startswith("holdout.")}
    inputs = {f"{set_}.{name}" for set_ in ("forget", "holdout") for name in fed}
    return [r for r in rows if r.name not in inputs and not r.name.endswith("_fpr")]


def _cell(model: Evaluation | None, name: str, missing: str) -> Cell:
    if model is None:
        return Cell("–", missing)
    figure = model.table.numbers.get(name)
    if figure is None:
        return Cell("–", "not measured")
    if figure.value is None:
        return Cell("–", clean(figure.reason) or "no row had a value")
    return Cell(number(figure.value))


def footnotes(rows: Sequence[MetricRow]) -> list[str]:
    """The reasons for what is missing, each once, in order of appearance."""
    return list(dict.fromkeys(cell.reason for row in rows for cell in row.cells if cell.reason))
