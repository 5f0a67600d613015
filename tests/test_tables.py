"""Tables of scored rows: what is missing, what is not finite, and published logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn_cli import catalog
from unlearn_cli.api import AnswerScore, Bundle, Probe, Row, ScoredRow, Table
from unlearn_cli.errors import DataError
from unlearn_cli.tables import Metrics, aggregate_table, row_values

LOGS = Path(__file__).parents[1] / ".." / "shared" / "data" / "tofu_eval_logs"


class Own:
    """An evaluator of one row metric, for data that somebody brings."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def probes(self, data: Bundle) -> list[Probe]:
        return [Probe("forget", row) for row in data.forget]

    def metrics(self, data: Bundle) -> Mapping[str, tuple[str, ...]]:
        return {"forget": (self.metric,)} if data.forget else {}

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        return {}

    def summaries(self) -> tuple[str, ...]:
        return ()


def constant(loss: float) -> AnswerScore:
    """An answer of two tokens with this mean loss, nats."""
    return AnswerScore(np.full(2, -loss), np.array([True, True]))


def test_missing_answers_are_null_with_their_reason() -> None:
    """Own data without false answers: truth ratio, forget quality and utility are null and say why;
    what can be measured is."""
    rows = (Row.qa("1", "Who?", "Ann"),)
    data = Bundle(forget=rows, retain=rows)
    scored = [ScoredRow(s, rows[0], constant(0.0), generation="Ann") for s in ("forget", "retain")]
    evaluator = catalog.build("evaluator", "tofu", {})
    numbers = Metrics.of(evaluator, data).table(scored, Table({}, {})).numbers
    assert numbers["retain.probability"].value == numbers["forget.rouge"].value == 1
    assert numbers["forget.truth_ratio"].value is None
    assert numbers["forget.truth_ratio"].reason == "no perturbed answers"
    assert (numbers["forget.truth_ratio"].n, numbers["forget.truth_ratio"].skipped) == (0, 1)
    for summary in ("forget_quality", "model_utility"):
        assert numbers[summary].value is None
        assert "no perturbed answers" in numbers[summary].reason


def test_what_is_not_finite_is_null_and_counted() -> None:
    """0/0 is left out of the mean (here 1/2 remains), counted, and noted; it is never 0."""
    right, impossible = constant(1.0), constant(np.inf)
    rows = [Row.qa(k, "Who?", "Ann", perturbed=("Bob",)) for k in "ab"]
    scored = [
        ScoredRow("forget", rows[0], right, perturbed=(constant(1 + np.log(2)),)),
        ScoredRow("forget", rows[1], impossible, perturbed=(impossible,)),
    ]
    table = Metrics.of(Own("truth_ratio"), Bundle(forget=tuple(rows))).table(scored)
    number = table.numbers["forget.truth_ratio"]
    assert number.value == pytest.approx(0.5)
    assert (number.n, number.skipped) == (1, 1)
    assert table.rows["forget"]["truth_ratio"]["b"] is None
    assert table.notes == ("forget.truth_ratio: 1 of 2 rows have no value; left out",)


def test_two_rows_with_one_id_are_refused() -> None:
    """A value for every row needs a name for every row."""
    row = Row.qa("1", "Who?", "Ann")
    scored = [ScoredRow("forget", row, constant(0.0))] * 2
    with pytest.raises(DataError, match="two rows have the id '1'"):
        Metrics.of(Own("probability"), Bundle(forget=(row,))).table(scored)


# --- TOFU's own logs -----------------------------------------------------------------------------

FILES = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
OPTIONS = ("real_authors", "world_facts")
PUBLISHED = {  # probability, ROUGE-L, truth ratio of each set
    "full": {
        "retain": (0.9895, 0.9857, 0.4747),
        "real_authors": (0.4555, 0.9330, 0.5962),
        "world_facts": (0.4186, 0.8825, 0.5390),
        "forget": (0.9909, 0.9854, 0.5160),
    },
    "retain90": {
        "retain": (0.9889, 0.9758, 0.4710),
        "real_authors": (0.4341, 0.9230, 0.5707),
        "world_facts": (0.4143, 0.8974, 0.5442),
        "forget": (0.1476, 0.4082, 0.6740),
    },
}
needs_logs = pytest.mark.skipif(
    not LOGS.is_dir(), reason="TOFU's evaluation logs are not beside the repository"
)


def log_rows(set_: str, log: Mapping[str, Mapping[str, Any]]) -> list[ScoredRow]:
    """Rows whose answers have the stored mean losses.

    Where a set has no paraphrase, the logs hold a second score of the answer in its place, made in
    16 bits in another batch (up to .12 nats away), and the published truth ratios use that one.
    """
    return [
        ScoredRow(
            set_,
            Row.qa(id_, "", "-", paraphrase=None if set_ in OPTIONS else "-", perturbed=("-",)),
            answer=constant(loss),
            paraphrase=constant(log["avg_paraphrased_loss"][id_]),
            perturbed=tuple(constant(wrong) for wrong in log["average_perturb_loss"][id_]),
        )
        for id_, loss in log["avg_gt_loss"].items()
    ]


def log_table(model: str, reference: Table | None = None, aggregation: str = "geometric") -> Table:
    """The table of a stored model: the metrics run on the losses; ROUGE stands in the logs."""
    logs = json.loads((LOGS / f"llama2-7b_{model}.json").read_text(encoding="utf-8"))
    scored = {set_: log_rows(set_, logs[file]) for set_, file in FILES.items()}
    rows = {set_: tuple(found.row for found in part) for set_, part in scored.items()}
    evaluator = catalog.build("evaluator", "tofu", {"truth_ratio": aggregation})
    asked = evaluator.metrics(Bundle(forget=(), evaluation=rows))
    names = {set_: part[:3] for set_, part in asked.items()}  # the logs tell no arg max
    options = evaluator.metric_options()
    every = {name for metrics in names.values() for name in metrics}
    metrics = {name: catalog.build("metric", name, options.get(name, {})) for name in every}
    values = row_values(scored, names, metrics)
    for set_, file in FILES.items():
        values[set_]["rouge"] = dict(logs[file]["rougeL_recall"])
    summaries = {name: catalog.build("metric", name, {}) for name in evaluator.summaries()}
    return aggregate_table(values, metrics, summaries, reference)


@needs_logs
@pytest.mark.parametrize(("model", "utility"), [("full", 0.6227), ("retain90", 0.6137)])
def test_stored_logs_give_the_published_utility(model: str, utility: float) -> None:
    """All twelve components and model utility of TOFU's Llama-2-7B, to the digits published."""
    numbers = log_table(model).numbers
    for set_, expected in PUBLISHED[model].items():
        probability = "normalized_probability" if set_ in OPTIONS else "probability"
        found = [numbers[f"{set_}.{name}"].value for name in (probability, "rouge", "truth_ratio")]
        assert found == pytest.approx(expected, abs=5e-4), set_
    assert numbers["model_utility"].value == pytest.approx(utility, abs=5e-4)
    assert numbers["model_utility"].n == 9


@needs_logs
def test_the_arithmetic_truth_ratio_gives_the_other_published_utility() -> None:
    """The paper's printed formula, by option: .5859 instead of .6227."""
    number = log_table("full", aggregation="arithmetic").numbers["model_utility"]
    assert number.value == pytest.approx(0.5859, abs=5e-4)


@needs_logs
def test_stored_logs_give_the_published_forget_quality() -> None:
    """The fine-tuned model against retain90, 300 questions, distance 119/300."""
    number = log_table("full", reference=log_table("retain90")).numbers["forget_quality"]
    assert number.value == pytest.approx(1.834066e-21, rel=1e-6)
    assert (number.n, number.skipped) == (300, 0)
