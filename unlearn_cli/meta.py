"""Meta-evaluation: how far a metric itself can be trusted.

A metric is faithful if it tells models that learned the forget set from models that never did, and
robust if a stress test does not change what it says of an unlearned model more than of the retain
reference. Both are asked of finished runs: their targets know, their retain references do not, and
their stress tests are `relearn` and `quantize`.

Source: OpenUnlearning (2025, arXiv:2506.12618), section on meta-evaluation. Differences: (1) R and
Q are the symmetric forms of UDS (2026, arXiv:2605.24614), since the printed Q counts only one
direction:

    F = AUC between the figures of models that know and models that do not; 1 minus it where it is
        below one half
    R = 1 - |d_unlearned - d_reference| / (|d_unlearned| + |d_reference|),  d = after - before
    Q = 1 - |after - before| / (|after| + |before|)
    robustness = harmonic mean of R and Q, overall = harmonic mean of F and robustness

(2) R and Q are means over runs, null where a denominator is 0. (3) F takes the better of the two
directions, as some figures have none of their own. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, harmonic_mean

from unlearn_cli.api.evaluate import Number, about_forget
from unlearn_cli.errors import UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.results import read_result
from unlearn_cli.runs import RunFolder

LEAST_UTILITY = 0.8
"""Share of the target's utility that an unlearned model must have kept for R and Q to count."""
NOT_OF_KNOWLEDGE = ("fluency",)


@dataclass(frozen=True)
class Trust:
    """How far one metric can be trusted; None where it could not be asked."""

    metric: str
    faithfulness: float | None
    relearning: float | None
    quantization: float | None

    @property
    def robustness(self) -> float | None:
        """Of the two stress tests, or of the one that there is."""
        return _together([self.relearning, self.quantization])

    @property
    def overall(self) -> float | None:
        """Faithful and robust; None where either is not known."""
        both = [self.faithfulness, self.robustness]
        return None if None in both else _together(both)


@dataclass(frozen=True)
class Meta:
    """What runs say of metrics."""

    knowing: int
    """Models that learned the forget set."""
    ignorant: int
    """Models that never did."""
    stressed: int
    """Unlearned models that kept enough utility and were put under stress."""
    metrics: tuple[Trust, ...]
    """The most trustworthy first."""


def meta_evaluate(folders: Sequence[Path]) -> Meta:
    """Score every figure of the forget set.

    Args:
        folders: of finished runs; the more different their models, the better.

    Raises:
        UsageError: a run is not finished, or the runs hold no two kinds of models.
    """
    knowing: dict[str, Mapping[str, Number]] = {}
    ignorant: dict[str, Mapping[str, Number]] = {}
    stressed: list[Mapping[str, Mapping[str, Mapping[str, Number]]]] = []
    for folder in folders:
        kept = read_result(folder).after["kept_utility"].value
        found = RunFolder(folder).evaluations()
        main = found[0].evaluator
        knowing |= _pool(found, main, "target")
        ignorant |= _pool(found, main, "retain_reference")
        tests = _by_test(found, main)
        if kept is not None and kept >= LEAST_UTILITY and {"relearn", "quantize"} & {*tests}:
            stressed.append(tests)
    if not knowing or not ignorant:
        hint = "give runs with an evaluated target and a retain reference"
        raise UsageError("there are not both kinds of models", where="RUN", hint=hint)
    names = dict.fromkeys(name for figures in knowing.values() for name in figures)
    trusts = [_trust(name, knowing, ignorant, stressed) for name in names if _counts(name)]
    order = sorted(trusts, key=lambda t: -(t.overall if t.overall is not None else -1))
    return Meta(len(knowing), len(ignorant), len(stressed), tuple(order))


def faithfulness(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """AUC: probability that a model that knows has the larger figure, ties half; or, where that is
    below one half, that it has the smaller."""
    pairs = [(k > i) + (k == i) / 2 for k, i in product(knowing, ignorant)]
    return max(fmean(pairs), 1 - fmean(pairs))


def relearning(unlearned: tuple[float, float], reference: tuple[float, float]) -> float | None:
    """R, from (before, after) of each."""
    ours, theirs = unlearned[1] - unlearned[0], reference[1] - reference[0]
    total = abs(ours) + abs(theirs)
    return None if total == 0 else 1 - abs(ours - theirs) / total


def quantization(before: float, after: float) -> float | None:
    """Q."""
    total = abs(after) + abs(before)
    return None if total == 0 else 1 - abs(after - before) / total


def _pool(found: Sequence[Evaluation], main: str, label: str) -> dict[str, Mapping[str, Number]]:
    """Model -> its figures: a model that several runs share counts once."""
    chosen = (e for e in found if (e.evaluator, e.label) == (main, label))
    return {evaluation.model: evaluation.table.numbers for evaluation in chosen}


def _by_test(
    found: Sequence[Evaluation], main: str
) -> Mapping[str, Mapping[str, Mapping[str, Number]]]:
    """Evaluator (`plain` for the main one) -> label -> figures."""
    result: dict[str, dict[str, Mapping[str, Number]]] = {}
    for e in found:
        result.setdefault("plain" if e.evaluator == main else e.evaluator, {})[e.label] = (
            e.table.numbers
        )
    return result


def _counts(name: str) -> bool:
    set_, _, metric = name.partition(".")
    return (about_forget(set_) and metric not in NOT_OF_KNOWLEDGE) or name.startswith("mia.")


def _trust(
    name: str,
    knowing: Mapping[str, Mapping[str, Number]],
    ignorant: Mapping[str, Mapping[str, Number]],
    stressed: Sequence[Mapping[str, Mapping[str, Mapping[str, Number]]]],
) -> Trust:
    pools = [[*_values(name, pool.values())] for pool in (knowing, ignorant)]
    found = {
        test: [v for run in stressed if (v := _stress(name, test, run)) is not None]
        for test in ("relearn", "quantize")
    }
    return Trust(
        name,
        faithfulness(*pools) if all(pools) else None,
        fmean(found["relearn"]) if found["relearn"] else None,
        fmean(found["quantize"]) if found["quantize"] else None,
    )


def _stress(
    name: str, test: str, run: Mapping[str, Mapping[str, Mapping[str, Number]]]
) -> float | None:
    places = [(t, m) for m in ("unlearned", "retain_reference") for t in ("plain", test)]
    numbers = [run.get(t, {}).get(m, {}).get(name) for t, m in places]
    values = [n.value for n in numbers if n is not None and n.value is not None]
    if len(values) < len(places):
        return None
    if test == "quantize":
        return quantization(values[0], values[1])
    return relearning((values[0], values[1]), (values[2], values[3]))


def _values(name: str, models: Iterable[Mapping[str, Number]]) -> Iterator[float]:
    for figures in models:
        number = figures.get(name)
        if number is not None and number.value is not None:
            yield number.value


def _together(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return harmonic_mean(known) if known else None
