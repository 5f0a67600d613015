"""The retain reference from results that are stored: ours, or the logs of others.

    evaluation JSON of ours, or a run folder       evaluations with ids, fingerprints and settings
    TOFU_EVAL.json of OpenUnlearning               losses, ROUGE and truth ratios by index
    eval_log_aggregated.json of TOFU               losses and ROUGE by index

The logs of others hold the mean loss of an answer's tokens. Our own metrics make values of it where
the mean is all they read; a metric that reads single tokens is null. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearn_cli.api.data import Row
from unlearn_cli.api.evaluate import AnswerScore, Probe, ScoredRow, Table
from unlearn_cli.errors import RunError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.foreign_logs import STORED, LoggedRow, read_log
from unlearn_cli.runs import RunFolder
from unlearn_cli.tables import Metrics, aggregate_table, row_values

FROM_MEAN_LOSS = ("probability", "normalized_probability", "truth_ratio")
"""Row metrics that read nothing of an answer but the mean loss of its tokens."""
KNOWN = (
    "give evaluation JSON of this tool, a run folder, TOFU_EVAL.json of OpenUnlearning, or "
    "eval_log_aggregated.json of TOFU"
)


@dataclass(frozen=True)
class Foreign:
    """A log that another tool wrote. It knows its rows by their index, not by an id."""

    tool: str
    where: str
    fingerprint: str
    """Of the file's content."""
    sets: Mapping[str, Sequence[LoggedRow]]

    def covers(self, metrics: Metrics) -> bool:
        """Whether the log holds anything of what an evaluator measures."""
        known = {*FROM_MEAN_LOSS, *STORED}
        return any(known & {*metrics.names.get(set_, ())} for set_ in self.sets)

    def evaluation(
        self,
        evaluator: str,
        metrics: Metrics,
        ids: Mapping[str, Sequence[str]],
        *,
        data: str,
        settings: Mapping[str, Any],
    ) -> Evaluation:
        """The log as an evaluation of the retain reference in this run.

        Args:
            evaluator: name of the evaluator.
            metrics: what it measures.
            ids: as for `table`.
            data: fingerprint of the run's rows: the log cannot tell its own.
            settings: of the evaluator: the log cannot tell its own.

        Raises:
            RunError: as `table` does.
        """
        return Evaluation(
            evaluator=evaluator,
            label="retain_reference",
            step=0,
            table=self.table(metrics, ids),
            model=self.fingerprint,
            data=data,
            settings=settings,
        )

    def table(self, metrics: Metrics, ids: Mapping[str, Sequence[str]]) -> Table:
        """Every figure that the log allows; the others are null and say so.

        Args:
            metrics: what to compute.
            ids: set -> ids of the rows that the run evaluates, in order; index i of the log is the
                i-th of them.

        Raises:
            RunError: the log has more or fewer rows of a set than the run evaluates.
        """
        values = {set_: self._values(set_, metrics, ids.get(set_, ())) for set_ in metrics.names}
        reason = f"not in the log of {self.tool}"
        reasons = {f"{set_}.{name}": reason for set_, by_name in values.items() for name in by_name}
        bare = aggregate_table(values, metrics.rows, {}, None, reasons)
        # It is its own reference: a forget quality of 1.
        table = aggregate_table(values, metrics.rows, metrics.summaries, bare, reasons)
        return Table(table.rows, table.numbers, (*table.notes, self._note()))

    def _note(self) -> str:
        return (
            f"from a log of {self.tool}: its rows are matched by their order, and it does not tell "
            "its model, tokenizer and prompt"
        )

    def _values(
        self, set_: str, metrics: Metrics, ids: Sequence[str]
    ) -> dict[str, dict[str, float | None]]:
        """Metric -> row id -> value, of one set."""
        names, rows = metrics.names[set_], self.sets.get(set_)
        values: dict[str, dict[str, float | None]] = {name: dict.fromkeys(ids) for name in names}
        if rows is None:
            return values
        self._check_count(set_, len(rows), len(ids))
        scored = [_scored(set_, id_, row) for id_, row in zip(ids, rows, strict=True)]
        derived = [name for name in names if name in FROM_MEAN_LOSS]
        values |= row_values({set_: scored}, {set_: derived}, metrics.rows)[set_]
        for name in names:
            if _holds(rows, name, metrics):
                values[name] = {id_: row.values[name] for id_, row in zip(ids, rows, strict=True)}
        return values

    def _check_count(self, set_: str, logged: int, evaluated: int) -> None:
        if logged == evaluated:
            return
        hint = "give a log of the same forget set, and let the run evaluate all of its rows"
        if logged < evaluated:
            hint = f"if it is a log of the same forget set, set `rows = {logged}` in [[evaluate]]"
        what = f"has {logged} rows of {set_!r}, the run evaluates {evaluated}"
        raise RunError(what, where=self.where, hint=hint)


def ids_by_set(probes: Iterable[Probe]) -> dict[str, list[str]]:
    """Set -> ids of the rows that an evaluator asks for, in order."""
    ids: dict[str, list[str]] = {}
    for probe in probes:
        ids.setdefault(probe.set, []).append(probe.row.id)
    return ids


def read_stored(path: Path) -> list[Evaluation] | Foreign:
    """What is stored at `path`: a file of ours or of another tool, or a run folder.

    A run folder gives the evaluations of its retain reference, one for each evaluator.

    Raises:
        RunError: the file is damaged, of another version, or of no tool that is known; or the run
            has no evaluation of a retain reference.
        UsageError: the folder holds no run.
    """
    if path.is_dir():
        return _of_run(path)
    text = _read(path)
    parsed = _parse(text, str(path))
    if isinstance(parsed, dict) and parsed.keys() & {"format", "evaluator"}:
        return [Evaluation.from_json(text, str(path))]
    log = read_log(parsed, str(path))
    if log is None:
        raise RunError("not a stored evaluation", where=str(path), hint=KNOWN)
    tool, sets = log
    return Foreign(tool, str(path), f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", sets)


def _of_run(folder: Path) -> list[Evaluation]:
    found = [e for e in RunFolder.open(folder).evaluations() if e.label == "retain_reference"]
    if not found:
        raise RunError(
            "the run has no evaluation of a retain reference",
            where=str(folder),
            hint=f"if its own model is the reference, set retain_reference.path = {folder}/model",
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError:
        what = "cannot be read: not UTF-8 text"
    raise RunError(what, where=str(path), hint=KNOWN)


def _parse(text: str, where: str) -> object:
    """JSON, with NaN and Infinity: other tools write them."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"damaged JSON: {error}", where=where) from None


def _holds(rows: Sequence[LoggedRow], name: str, metrics: Metrics) -> bool:
    """Whether the log has the metric's own values; a stored truth ratio is the geometric one."""
    geometric = getattr(metrics.rows[name], "aggregation", "geometric") == "geometric"
    return geometric and all(name in row.values for row in rows)


def _scored(set_: str, id_: str, row: LoggedRow) -> ScoredRow:
    return ScoredRow(
        set_,
        Row(id_, answer=""),
        answer=None if row.answer is None else _one_token(row.answer),
        paraphrase=None if row.paraphrase is None else _one_token(row.paraphrase),
        perturbed=tuple(_one_token(loss) for loss in row.perturbed),
    )


def _one_token(loss: float) -> AnswerScore:
    """An answer with this mean loss, nats."""
    return AnswerScore(np.array([-loss]), np.array([False]))
