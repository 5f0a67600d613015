"""From probes to a table: score each row once, on all processes, and derive every metric from it.

Batches are formed from all rows and then dealt out, so what stands beside a row in its batch does
not depend on the number of processes: one process and eight give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object

from unlearn_cli import catalog
from unlearn_cli.api.data import Bundle, Row
from unlearn_cli.api.evaluate import (
    Answer,
    AnswerScore,
    Direction,
    Evaluator,
    Number,
    Probe,
    RowMetric,
    ScoredRow,
    SummaryMetric,
    Table,
)
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.forward import collate
from unlearn_cli.engine.generate import Prompt, evaluating, generate_batch
from unlearn_cli.errors import DataError, RunError

Values = dict[str, dict[str, dict[str, float | None]]]
"""set -> metric -> row id -> value."""
T = TypeVar("T")
R = TypeVar("R")

NEEDS = {
    "answer": "answer tokens",
    "paraphrase": "paraphrased answers",
    "perturbed": "perturbed answers",
    "generation": "generated answers",
}


@dataclass
class _Distinct(Generic[T]):
    """Things to compute, each once, in order of first use."""

    items: list[T] = field(default_factory=list)
    index: dict[object, int] = field(default_factory=dict)

    def add(self, key: object, item: T) -> int:
        """The place of `item`, which is new unless its key is known."""
        place = self.index.setdefault(key, len(self.items))
        if place == len(self.items):
            self.items.append(item)
        return place


@dataclass(frozen=True)
class _Plan:
    """Where the results of a probe will stand: an answer is a list of chunks."""

    probe: Probe
    answers: Mapping[Answer, Sequence[Sequence[int]]]
    prompt: int | None


def score_probes(
    model: Any,
    scorer: torch.nn.Module,
    encoder: Encoder,
    probes: Sequence[Probe],
    *,
    batch_size: int,
    max_new_tokens: int,
    accelerator: Any,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ScoredRow]:
    """Score and answer what the probes ask for.

    Args:
        model: the causal language model, for generation.
        scorer: `Scorer` of the same model, prepared by accelerate or not.
        encoder: turns rows into token ids.
        probes: what to score; equal token sequences are computed once.
        batch_size: rows in one forward pass of one process.
        max_new_tokens: longest generation, tokens.
        accelerator: `accelerate.Accelerator`; every process must call this function.
        progress: told how many of the probes are done, in proportion.

    Returns:
        The scored rows in the order of the probes, the same on every process.

    Raises:
        RunError: the model gives a NaN.
    """
    answers: _Distinct[Encoded] = _Distinct()
    prompts: _Distinct[Prompt] = _Distinct()
    plans = [_plan(probe, encoder, answers, prompts) for probe in probes]
    advance = _in_proportion(progress, len(probes), len(answers.items) + len(prompts.items))
    with evaluating(scorer):
        scores = _share(
            answers.items,
            [len(item.input_ids) for item in answers.items],
            lambda items: _score(scorer, items, accelerator.device),
            batch_size,
            accelerator,
            advance,
        )
        texts = _share(
            prompts.items,
            [len(prompt) for prompt in prompts.items],
            lambda items: generate_batch(model, encoder, items, max_new_tokens),
            batch_size,
            accelerator,
            advance,
        )
    return [_scored_row(plan, scores, texts) for plan in plans]


def _plan(
    probe: Probe, encoder: Encoder, answers: _Distinct[Encoded], prompts: _Distinct[Prompt]
) -> _Plan:
    def places(text: str) -> list[int]:
        chunks = encoder.encode(probe.row, answer=text)
        return [answers.add((c.input_ids.tobytes(), c.start, c.end), c) for c in chunks]

    prompt = encoder.prompt(probe.row) if probe.generate else np.zeros(0, np.int32)
    return _Plan(
        probe,
        {kind: [places(text) for text in _texts(probe.row, kind)] for kind in probe.score},
        prompts.add(prompt.tobytes(), prompt) if len(prompt) else None,
    )


def _texts(row: Row, kind: Answer) -> tuple[str, ...]:
    if kind == "perturbed":
        return row.perturbed
    text = row.answer if kind == "answer" else row.paraphrase
    return () if text is None else (text,)


def _share(
    items: Sequence[T],
    lengths: Sequence[int],
    work: Callable[[list[T]], Sequence[R]],
    batch_size: int,
    accelerator: Any,
    advance: Callable[[int], None],
) -> list[R]:
    """Results of `work` on all items, in their order, computed by all processes together."""
    order = sorted(range(len(items)), key=lambda i: -lengths[i])  # longest first: memory runs
    batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]  # out at once
    mine: list[tuple[int, R]] = []
    for first in range(0, len(batches), accelerator.num_processes):
        number = first + accelerator.process_index
        # A model that is sharded over processes needs all of them in every forward pass, so a
        # process without a batch of its own repeats one and drops the result.
        batch = batches[number % len(batches)]
        results = work([items[i] for i in batch])
        if number < len(batches):
            mine.extend(zip(batch, results, strict=True))
        advance(sum(map(len, batches[first : first + accelerator.num_processes])))
    found: dict[int, R] = dict(gather_object(mine))
    return [found[i] for i in range(len(items))]


def _score(scorer: torch.nn.Module, items: list[Encoded], device: Any) -> list[AnswerScore]:
    """One forward pass."""
    scores: Scores = scorer(collate(items, pad_id=0).to(device))
    logp = scores.token_logp.double().cpu().numpy()
    correct = (scores.logits.argmax(-1) == scores.labels).cpu().numpy()
    edges = np.cumsum([item.end - item.start for item in items])[:-1]
    rows = zip(np.split(logp, edges), np.split(correct, edges), strict=True)
    return [AnswerScore(row_logp, row_correct) for row_logp, row_correct in rows]


def _scored_row(plan: _Plan, scores: Sequence[AnswerScore], texts: Sequence[str]) -> ScoredRow:
    probe = plan.probe
    found = {
        kind: [_joined([scores[k] for k in chunks]) for chunks in answers if chunks]
        for kind, answers in plan.answers.items()
    }
    if any(np.isnan(score.token_logp).any() for part in found.values() for score in part):
        raise RunError(
            "the model gives NaN instead of probabilities",
            where=f"evaluation set {probe.set!r}, row {probe.row.id!r}",
            hint="its weights are damaged: train with a lower learning rate or another dtype",
        )
    return ScoredRow(
        set=probe.set,
        row=probe.row,
        answer=next(iter(found.get("answer", ())), None),
        paraphrase=next(iter(found.get("paraphrase", ())), None),
        perturbed=tuple(found.get("perturbed", ())),
        generation=None if plan.prompt is None else texts[plan.prompt],
    )


def _joined(chunks: Sequence[AnswerScore]) -> AnswerScore:
    """The chunks of a long text as one answer."""
    return AnswerScore(
        np.concatenate([chunk.token_logp for chunk in chunks]),
        np.concatenate([chunk.correct for chunk in chunks]),
    )


def _in_proportion(progress: Callable[[int], None], rows: int, items: int) -> Callable[[int], None]:
    """Count finished items and report them as rows."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(rows * done // items)

    return advance


def build_table(
    evaluator: Evaluator, scored: Sequence[ScoredRow], reference: Table | None, data: Bundle
) -> Table:
    """Every metric that the evaluator names, from rows that were scored once.

    Args:
        evaluator: names the metrics.
        scored: what `score_probes` returned for the evaluator's probes.
        reference: table of the retain reference, where there is one.
        data: the rows of the run.

    Raises:
        DataError: two rows of a set share an id.
        PluginError: a metric is missing or broken.
    """
    names, options = evaluator.metrics(data), evaluator.metric_options()

    def build(name: str) -> Any:
        return catalog.build("metric", name, options.get(name, {}))

    metrics: dict[str, RowMetric] = {n: build(n) for part in names.values() for n in part}
    summaries: dict[str, SummaryMetric] = {name: build(name) for name in evaluator.summaries()}
    by_set = {set_: [row for row in scored if row.set == set_] for set_ in names}
    reasons = {
        f"{set_}.{name}": missing(by_set[set_], metrics[name])
        for set_ in names
        for name in names[set_]
    }
    values = row_values(by_set, names, metrics)
    return aggregate_table(values, metrics, summaries, reference, reasons)


def row_values(
    scored: Mapping[str, Sequence[ScoredRow]],
    names: Mapping[str, Sequence[str]],
    metrics: Mapping[str, RowMetric],
) -> Values:
    """The value of every row, by set and metric; what is not finite is None."""
    for set_, rows in scored.items():
        _refuse_equal_ids(set_, [row.row.id for row in rows])
    return {
        set_: {
            name: {row.row.id: _finite(metrics[name].value(row)) for row in scored[set_]}
            for name in names[set_]
        }
        for set_ in names
    }


def _refuse_equal_ids(set_: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise DataError(f"two rows have the id {id_!r}", where=f"evaluation set {set_!r}")
        seen.add(id_)


def missing(rows: Sequence[ScoredRow], metric: RowMetric) -> str:
    """Why a metric has no value on any of the rows."""
    for need in sorted(metric.needs):
        if all(getattr(row, need) in (None, ()) for row in rows):
            return f"no {NEEDS.get(need, need)}"
    return "no row has a value"


def aggregate_table(
    values: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    metrics: Mapping[str, RowMetric],
    summaries: Mapping[str, SummaryMetric],
    reference: Table | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Table:
    """From values of rows to figures; pure, so it also reads what others have stored.

    Args:
        values: set -> metric -> row id -> value, None where there is none.
        metrics: the row metrics in `values`.
        summaries: computed in this order, each from the figures before it.
        reference: table of the retain reference, where there is one.
        reasons: `set.metric` -> why it is null where no row has a value.
    """
    numbers = {
        f"{set_}.{name}": _number(
            metrics[name], set_, list(rows.values()), (reasons or {}).get(f"{set_}.{name}", "")
        )
        for set_, by_metric in values.items()
        for name, rows in by_metric.items()
    }
    notes = tuple(
        f"{name}: {number.skipped} of {number.n + number.skipped} rows have no value; left out"
        for name, number in numbers.items()
        if number.n and number.skipped
    )
    for name, summary in summaries.items():
        numbers[name] = summary.summary(Table(values, dict(numbers), notes), reference)
    return Table(values, numbers, notes)


def _number(metric: RowMetric, set_: str, values: list[float | None], reason: str) -> Number:
    direction: Direction = metric.on_forget if set_ == "forget" else metric.on_others
    known = [value for value in values if value is not None]
    skipped = len(values) - len(known)
    value = _finite(metric.aggregate(known, set_)) if known else None
    if value is None:
        reason = reason or "no row has a value"
        return Number(None, direction, len(known), skipped, reason)
    return Number(value, direction, len(known), skipped)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
