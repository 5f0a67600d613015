"""Evaluation logs of OpenUnlearning and TOFU, as what they hold of each row. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearn_cli.errors import RunError

STORED = ("rouge", "truth_ratio")
"""Row metrics whose values a log may hold as they are."""
PARAPHRASED = ("forget", "retain")
"""Sets whose truth ratio takes the paraphrased answer; never the answer in its place."""
LARGEST_RATIO = math.exp(690)
"""Keeps a stored truth ratio R, and 1/R, finite; changes no rank."""
AGGREGATE_TOLERANCE = 1e-6
"""Between the stored mean of truth ratios and that of the stored values."""

TOFU_FILES = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
TOFU_FIELDS = {
    "answer": "avg_gt_loss",
    "paraphrase": "avg_paraphrased_loss",
    "perturbed": "average_perturb_loss",
    "rouge": "rougeL_recall",
}
OU_SETS = {"forget": "forget", "retain": "retain", "ra": "real_authors", "wf": "world_facts"}
OU_FIELDS = (  # what, end of the metric's name, field of its rows
    ("answer", "Q_A_Prob", "avg_loss"),
    ("paraphrase", "Q_A_PARA_Prob", "avg_loss"),
    ("perturbed", "Q_A_PERT_Prob", "avg_loss"),
    ("rouge", "Q_A_ROUGE", "rougeL_recall"),
    ("truth_ratio", "truth_ratio", "score"),
    ("truth_ratio", "Truth_Ratio", "score"),
)


@dataclass(frozen=True)
class LoggedRow:
    """What a log holds of one row; None or empty where it holds nothing."""

    answer: float | None = None
    """Mean loss of a token, nats; NaN where the answer had none."""
    paraphrase: float | None = None
    perturbed: tuple[float, ...] = ()
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Metric of `STORED` -> value."""


def read_log(parsed: object, file: str) -> tuple[str, dict[str, list[LoggedRow]]] | None:
    """The tool that wrote a log, and set -> rows; None where it is of no tool that is known.

    Args:
        parsed: the file's JSON.
        file: its path, for errors.

    Raises:
        RunError: a key that is read has not the form it should; names it.
    """
    root = _Place(parsed, file)
    if not isinstance(parsed, dict):
        return None
    for tool, columns in (("OpenUnlearning", _open_unlearning), ("TOFU", _tofu)):
        sets = {set_: _rows(set_, found) for set_, found in columns(root).items() if found}
        if sets:
            return tool, sets
    return None


@dataclass(frozen=True)
class _Place:
    """A value of a JSON file, and where it stands."""

    value: Any
    file: str
    keys: tuple[str, ...] = ()

    def refuse(self, what: str, hint: str = "") -> RunError:
        """The error that names this place."""
        where = f"{self.file}: {'.'.join(self.keys)}" if self.keys else self.file
        return RunError(what, where=where, hint=hint)

    def get(self, key: str) -> _Place | None:
        """A value of this object; None where it has no such key."""
        if not isinstance(self.value, dict):
            raise self.refuse(f"is {_kind(self.value)}, not an object")
        return self._at(key, self.value[key]) if key in self.value else None

    def need(self, key: str) -> _Place:
        """A value of this object, which has to be there."""
        found = self.get(key)
        if found is None:
            raise self.refuse(f"has no {key!r}")
        return found

    def by_index(self) -> list[_Place]:
        """The values of rows: a list, or an object with the keys "0" to "n-1"."""
        if not isinstance(self.value, list | dict):
            raise self.refuse(f"is {_kind(self.value)}, not a value for each row")
        if not self.value:
            raise self.refuse("has no rows")
        if isinstance(self.value, list):
            return [self._at(str(index), value) for index, value in enumerate(self.value)]
        return [self.need(str(index)) for index in range(len(self.value))]

    def number(self, highest: float = math.inf) -> float | None:
        """A number from 0 to `highest`, or NaN; None for null."""
        value = self.value
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(f"is {_kind(value)}, not a number")
        value = _float(value)
        if value < 0 or value > highest:
            raise self.refuse(f"is {value:.6g}, not from 0 to {highest:g}")
        return value

    def numbers(self) -> tuple[float, ...]:
        """Numbers, of which one may stand alone; empty where any is null."""
        several = self.by_index() if isinstance(self.value, list) else [self]
        found = [place.number() for place in several]
        return () if None in found else tuple(number for number in found if number is not None)

    def _at(self, key: str, value: Any) -> _Place:
        return _Place(value, self.file, (*self.keys, key))


def _float(value: int | float) -> float:
    """The number; integers have no largest one, floats do."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


Columns = dict[str, list[_Place]]
"""Field of a row -> its value in each row."""


def _tofu(root: _Place) -> dict[str, Columns]:
    found: dict[str, Columns] = {}
    for file, set_ in TOFU_FILES.items():
        log = root.get(file)
        columns = {what: log.get(key) for what, key in TOFU_FIELDS.items()} if log else {}
        found[set_] = {what: place.by_index() for what, place in columns.items() if place}
    return found


def _open_unlearning(root: _Place) -> dict[str, Columns]:
    found: dict[str, Columns] = {set_: {} for set_ in OU_SETS.values()}
    for prefix, set_ in OU_SETS.items():
        for what, end, key in OU_FIELDS:
            if metric := root.get(f"{prefix}_{end}"):
                found[set_][what] = _column(metric, key)
        if _has_losses(set_, found[set_]):
            # Theirs may be of another formula, and a row without tokens shifts those after it.
            found[set_].pop("truth_ratio", None)
        elif "truth_ratio" in found[set_]:
            metric = root.get(f"{prefix}_truth_ratio") or root.need(f"{prefix}_Truth_Ratio")
            _check_formula(set_, metric, found[set_]["truth_ratio"])
    return found


def _column(metric: _Place, key: str) -> list[_Place]:
    if isinstance(metric.value, int | float):
        raise metric.refuse(
            "is one figure, without the values of its rows", "give TOFU_EVAL.json, not the summary"
        )
    rows = metric.need("value_by_index").by_index()
    return [row if row.value is None else row.need(key) for row in rows]


def _has_losses(set_: str, columns: Columns) -> bool:
    """Whether the truth ratio can be made of losses."""
    return {"perturbed", "paraphrase" if set_ in PARAPHRASED else "answer"} <= columns.keys()


def _check_formula(set_: str, metric: _Place, scores: list[_Place]) -> None:
    """Refuse truth ratios that are not p_wrong / p_correct, which their mean gives away."""
    place = metric.get("agg_value")
    stored = place.number() if place else None
    ratios = np.array([score.number() for score in scores], dtype=np.float64)
    if stored is None or not np.isfinite([stored, *ratios]).all():
        return
    mean = np.mean(_towards_one(ratios) if set_ == "forget" else np.maximum(0.0, 1 - ratios))
    if abs(stored - mean) > AGGREGATE_TOLERANCE:
        hint = f"give a log with {metric.keys[0].split('_')[0]}_Q_A_PERT_Prob and its kin"
        what = f"agg_value is {stored:.6g}, the truth ratios give {mean:.6g}: another formula"
        raise metric.refuse(what, hint)


def _towards_one(ratios: Any) -> Any:
    return np.minimum(ratios, 1 / (ratios + 1e-10))


def _rows(set_: str, columns: Columns) -> list[LoggedRow]:
    """The columns of a set as rows."""
    first, *others = columns.values()
    for other in others:
        if len(other) != len(first):
            column = _Place(None, other[0].file, other[0].keys[:2])
            rows = f"{len(first)} in {'.'.join(first[0].keys[:2])}"
            raise column.refuse(f"has {len(other)} rows, but there are {rows}")
    cells = zip(*columns.values(), strict=True)
    return [_row(set_, dict(zip(columns, row, strict=True))) for row in cells]


def _row(set_: str, cells: Mapping[str, _Place]) -> LoggedRow:
    answer, paraphrase = (
        cells[what].number() if what in cells else None for what in ("answer", "paraphrase")
    )
    perturbed = cells["perturbed"].numbers() if "perturbed" in cells else ()
    if set_ in PARAPHRASED and paraphrase is None:
        perturbed = ()  # the answer would take the paraphrase's place
    values = {name: _value(name, cells[name]) for name in STORED if name in cells}
    return LoggedRow(answer, paraphrase, perturbed, values)


def _value(name: str, cell: _Place) -> float | None:
    value = cell.number(1.0 if name == "rouge" else math.inf)
    if value is None or math.isnan(value):
        return None
    return value if name == "rouge" else min(max(value, 1 / LARGEST_RATIO), LARGEST_RATIO)
