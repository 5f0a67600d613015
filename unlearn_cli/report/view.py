"""What the report shows, taken from a run folder: plain values that the template only lays out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from unlearn_cli.evaluations import Evaluation
from unlearn_cli.report.charts import Series, chart, distribution
from unlearn_cli.report.plane import Course
from unlearn_cli.report.words import (
    UNDER_STRESS,
    MetricRow,
    brief,
    compare,
    duration,
    footnotes,
    is_stress,
    number,
)
from unlearn_cli.runs import RunFolder
from unlearn_cli.safe_text import clean

FORGET, PROBABILITY, TRUTH_RATIO = "forget", "probability", "truth_ratio"
TRAINED = ("checkpoint", "unlearned")
Log = Sequence[Mapping[str, Any]]

HEADINGS = {
    "forgotten": "Forgotten",
    "recoverable": "Recoverable",
    "not forgotten": "Not forgotten",
    "over-forgotten": "Over-forgotten",
    "collapsed": "Collapsed",
    "unknown": "Unknown",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict in words; `kind` picks the colour: good, bad or open."""

    heading: str
    explanation: str
    kind: str
    missed: tuple[str, ...] = ()
    """What the spec requires and the result does not show."""


@dataclass(frozen=True)
class Answer:
    """One forget question before and after; probabilities are of the true answer."""

    question: str
    truth: str
    before: str | None
    after: str | None
    reference: str | None
    """What the retain reference says."""
    forced: str | None
    """What the model after unlearning says under `jailbreak`."""
    probability_before: str | None
    probability_after: str | None
    share: float
    """Probability after, for the bar, in [0, 1]."""


@dataclass(frozen=True)
class Block:
    """Everything that one evaluator found out."""

    evaluator: str
    step: int
    metrics: list[MetricRow]
    """The figures over all sets first."""
    more: list[MetricRow]
    """What only feeds the attacks."""
    notes: list[str]
    charts: list[Markup]
    answers: list[Answer]
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Compared:
    """The models that a report sets side by side."""

    target: Evaluation | None
    after: Evaluation | None
    reference: Evaluation | None
    course: list[Evaluation]
    """Target and trained models, by step."""


def verdict(log: Log) -> Verdict:
    """From the last event that ended the run; a run that goes on or died has none."""
    for entry in reversed(log):
        if entry["event"] == "RunFinished":
            kind = {"forgotten": "good", "unknown": "open"}.get(entry["verdict"], "bad")
            heading = HEADINGS.get(entry["verdict"], clean(entry["verdict"]))
            missed = tuple(clean(line) for line in entry.get("missed", ()))
            return Verdict(heading, clean(entry["explanation"]), kind, missed)
        if entry["event"] == "RunFailed":
            return Verdict("The run failed", clean(entry["error"]), "bad")
        if entry["event"] == "RunStarted":
            break
    return Verdict("Not finished", "The run is going on, or it was interrupted.", "open")


def blocks(run: RunFolder) -> list[Block]:
    """One block an evaluator that is no stress test, the main one first."""
    by_evaluator = _by_evaluator(run)
    forced = by_evaluator.get("jailbreak", [])
    return [
        _block(name, found, forced) for name, found in by_evaluator.items() if not _is_stress(found)
    ]


def stress(run: RunFolder) -> list[tuple[str, list[str]]]:
    """(Stress test, figures of `UNDER_STRESS` with the retain reference's in brackets)."""
    rows = []
    for name, found in _by_evaluator(run).items():
        if _is_stress(found):
            compared = _sort(found)
            rows.append((clean(name), [_with_control(compared, key) for key in UNDER_STRESS]))
    return rows


def course(run: RunFolder) -> Course:
    """The run in the forget-utility plane, by its main evaluator."""
    by_evaluator = [found for found in _by_evaluator(run).values() if not _is_stress(found)]
    compared = _sort(by_evaluator[0] if by_evaluator else [])
    trained = {e.step: e.table.numbers for e in compared.course if e.label in TRAINED}
    fixed = (compared.target, compared.reference)
    target, reference = (e.table.numbers if e else None for e in fixed)
    return Course(run.folder.resolve().name, [*trained.values()], target, reference)


def _by_evaluator(run: RunFolder) -> dict[str, list[Evaluation]]:
    found: dict[str, list[Evaluation]] = defaultdict(list)
    for evaluation in run.evaluations():
        found[evaluation.evaluator].append(evaluation)
    return found


def _is_stress(found: Sequence[Evaluation]) -> bool:
    return any(is_stress(evaluation) for evaluation in found)


def _with_control(compared: Compared, name: str) -> str:
    after, control = (_value(e, name) if e else None for e in (compared.after, compared.reference))
    shown = "–" if after is None else number(after)
    return shown if control is None else f"{shown} ({number(control)})"


def training_charts(log: Log) -> list[Markup]:
    """Loss terms over steps, for every stage that trained."""
    titles = {e["stage"]: clean(e["title"]) for e in log if e["event"] == "StageStarted"}
    terms: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in log:
        if entry["event"] == "StepDone":
            for name, value in entry["losses"].items():
                if value is not None:
                    terms[entry["stage"]][clean(name)].append((entry["step"], value))
    stages = sorted(terms, key=lambda stage: stage != "train")
    return [
        chart(
            f"Loss: {titles.get(stage, stage)}",
            [Series(name, tuple(points)) for name, points in terms[stage].items()],
            "step",
            "nats",
        )
        for stage in stages
    ]


def notices(log: Log) -> list[str]:
    """What the run wanted the user to know, each once."""
    return list(dict.fromkeys(clean(e["text"]) for e in log if e["event"] == "Notice"))


def stages(log: Log) -> list[tuple[str, str]]:
    """(title, time taken) of the stages that ended."""
    titles = {e["stage"]: clean(e["title"]) for e in log if e["event"] == "StageStarted"}
    return [
        (
            titles.get(entry["stage"], clean(entry["stage"])),
            "cached" if entry["cached"] else duration(entry["seconds"]),
        )
        for entry in log
        if entry["event"] == "StageFinished"
    ]


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted key, text)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None and value != []:
        items = value if isinstance(value, list) else [value]
        yield clean(prefix), clean(", ".join(str(item) for item in items))


def _block(name: str, found: list[Evaluation], forced: list[Evaluation]) -> Block:
    compared = _sort(found)
    models = (compared.target, compared.after, compared.reference)
    missing = (
        "the target was not evaluated",
        "the unlearned model is not evaluated yet",
        "there is no retain reference",
    )
    metrics = sorted(compare(models, missing), key=lambda row: bool(row.set))
    shown = brief(metrics)
    return Block(
        evaluator=clean(name),
        step=compared.after.step if compared.after else 0,
        metrics=shown,
        more=[row for row in metrics if row not in shown],
        notes=_notes(metrics, models),
        charts=[c for c in (*_courses(compared, shown), _truth_ratios(compared)) if c],
        answers=_answers(compared, _sort(forced).after),
        evaluations=found,
    )


def _sort(found: Sequence[Evaluation]) -> Compared:
    by_label = {evaluation.label: evaluation for evaluation in found}  # the last of each label
    course = [e for e in found if e.label in ("target", *TRAINED)]
    trained = [e for e in course if e.label in TRAINED]
    after = by_label.get("unlearned") or (trained[-1] if trained else None)
    return Compared(by_label.get("target"), after, by_label.get("retain_reference"), course)


def _notes(metrics: Sequence[MetricRow], models: Sequence[Evaluation | None]) -> list[str]:
    own = [clean(note) for model in models if model for note in model.table.notes]
    return [*footnotes(metrics), *dict.fromkeys(own)]


def _courses(compared: Compared, shown: Sequence[MetricRow]) -> Iterator[Markup]:
    """The metrics that are shown, over steps: a chart for each set, one for each summary metric."""
    wanted = {row.name for row in shown}
    groups: dict[str, list[str]] = defaultdict(list)
    for evaluation in compared.course:
        for name in evaluation.table.numbers:
            group = name.split(".")[0]
            if clean(name) in wanted and name not in groups[group]:
                groups[group].append(name)
    for group, names in sorted(groups.items(), key=lambda item: "." in item[1][0]):
        series = [_course(name, compared) for name in names]
        yield chart(clean(group).replace("_", " "), series, "step")


def _course(name: str, compared: Compared) -> Series:
    values = [(float(e.step), _value(e, name)) for e in compared.course]
    points = tuple((step, value) for step, value in values if value is not None)
    reference = _value(compared.reference, name) if compared.reference else None
    return Series(clean(name.split(".", 1)[-1]).replace("_", " "), points, reference)


def _value(evaluation: Evaluation, name: str) -> float | None:
    figure = evaluation.table.numbers.get(name)
    return None if figure is None else figure.value


def _rows(evaluation: Evaluation | None, metric: str) -> dict[str, float]:
    """Values of a metric of the forget rows, the missing left out."""
    table = evaluation.table.rows if evaluation else {}
    values = table.get(FORGET, {}).get(metric, {})
    return {row: value for row, value in values.items() if value is not None}


def _truth_ratios(compared: Compared) -> Markup:
    """Truth ratio of the forget rows: forget quality tests the gap between two of these lines."""
    models = {
        "before": compared.target,
        "after": compared.after,
        "retain reference": compared.reference,
    }
    values = {name: [*_rows(model, TRUTH_RATIO).values()] for name, model in models.items()}
    series = [Series(name, distribution(v), stairs=True) for name, v in values.items()]
    gap = largest_gap(values["after"], values["retain reference"])
    title = "Truth ratio of the forget rows"
    if gap is not None:
        title += f" (largest gap, after to reference: {number(gap)})"
    return chart(title, series, "truth ratio", "share of rows up to it")


def largest_gap(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Greatest distance between two empirical distribution functions, in [0, 1].

    The Kolmogorov-Smirnov statistic of two samples; None where one is empty.
    """
    if not one or not other:
        return None
    return max(abs(_share(one, v) - _share(other, v)) for v in {*one, *other})


def _share(values: Sequence[float], limit: float) -> float:
    return sum(value <= limit for value in values) / len(values)


def _answers(compared: Compared, forced: Evaluation | None) -> list[Answer]:
    """The forget rows, those that leak most first."""
    before, after = _generated(compared.target), _generated(compared.after)
    reference, pressed = _generated(compared.reference), _generated(forced)
    p_before = _rows(compared.target, PROBABILITY)
    p_after = _rows(compared.after, PROBABILITY)
    rows = sorted(after | before, key=lambda row: -p_after.get(row, -1.0))
    return [
        Answer(
            question=_text((after | before)[row][0]),
            truth=_text((after | before)[row][1]),
            before=_text(before[row][2]) if row in before else None,
            after=_text(after[row][2]) if row in after else None,
            reference=_text(reference[row][2]) if row in reference else None,
            forced=_text(pressed[row][2]) if row in pressed else None,
            probability_before=number(p_before[row]) if row in p_before else None,
            probability_after=number(p_after[row]) if row in p_after else None,
            share=min(1.0, max(0.0, p_after.get(row, 0.0))),
        )
        for row in rows
    ]


def _generated(evaluation: Evaluation | None) -> dict[str, tuple[str, str, str]]:
    """Row id -> (question, truth, generation) of the forget rows."""
    samples = evaluation.samples if evaluation else ()
    return {s.id: (s.question, s.truth, s.generation) for s in samples if s.set == FORGET}


def _text(text: str) -> str:
    return clean(text, 2000, keep_newlines=True).strip()
