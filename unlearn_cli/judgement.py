"""The judgement of a run: the verdict on its evaluations, and what its spec requires and is missed.

A run is judged when it ends, and from its folder whenever somebody verifies it: by one function.
Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import ValidationError

from unlearn_cli.errors import RunError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.require import missed
from unlearn_cli.results import read_spec
from unlearn_cli.runs import Judged, RunFolder
from unlearn_cli.spec.tables import RequireTable, VerdictTable
from unlearn_cli.verdict import Stressed, judge


def judgement(
    evaluations: Sequence[Evaluation], thresholds: VerdictTable, required: RequireTable
) -> Judged:
    """Judge a run.

    Args:
        evaluations: of target, retain reference and unlearned model, told apart by their labels;
            those of the last in the order of the spec, whose first decides.
        thresholds: the spec's `[verdict]`.
        required: the spec's `[require]`.
    """
    tables = {(e.label, e.evaluator): e.table for e in evaluations}
    after = [e for e in evaluations if e.label == "unlearned"]
    main = after[0].evaluator if after else ""
    stressed = {
        e.evaluator: Stressed(e.table, tables.get(("retain_reference", e.evaluator)))
        for e in after
        if e.under_stress
    }
    verdict = judge(
        tables.get(("unlearned", main)),
        tables.get(("target", main)),
        tables.get(("retain_reference", main)),
        thresholds,
        stressed,
    )
    failed = missed(required, after, verdict.name)
    return Judged(verdict.name, verdict.explanation, failed)


def judge_again(run: RunFolder) -> Judged:
    """Judge a finished run from its folder: the stored evaluations, by the spec that lies there.

    Raises:
        RunError: a file is damaged, the spec's thresholds are none, or a model has two evaluations
            by one evaluator.
    """
    spec = read_spec(run)
    try:
        thresholds = VerdictTable.model_validate(spec.get("verdict", {}))
        required = RequireTable.model_validate(spec.get("require", {}))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RunError(what, where=str(run.spec)) from None
    evaluations = run.evaluations()
    _refuse_twins(evaluations, run)
    return judgement(evaluations, thresholds, required)


def _refuse_twins(evaluations: Sequence[Evaluation], run: RunFolder) -> None:
    """A run measures a model once by each evaluator, but for checkpoints on the way."""
    once = Counter((e.label, e.evaluator) for e in evaluations if e.label != "checkpoint")
    for (label, evaluator), count in once.items():
        if count > 1:
            what = f"has {count} evaluations of the {label} by {evaluator}"
            raise RunError(what, where=str(run.folder))
