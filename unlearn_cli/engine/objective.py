"""The loss of a step as a sum of terms: the method's forget term and the retain term.

A term says which rows it takes from a step, how to turn their scores into values, and whether these
count a row or a token. The engine does the rest, so that terms differ only in their formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import split_scores
from unlearn_cli.engine.method import REFERENCES, Needs
from unlearn_cli.engine.plan import Plan, Step
from unlearn_cli.engine.reference import ReferenceStore, Request

Streams = Mapping[str, Sequence[Encoded]]
Rows = Mapping[str, Sequence[int]]
"""For each stream that a term reads, which of its rows: aligned lists of equal length."""


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    name: str
    weight: float
    per: Literal["row", "token"]
    rows: Callable[[Step], Rows]
    values: Callable[[Mapping[str, Scores], Rows], Tensor]
    """Scores of each stream -> (B,) or (N,) values, in nats."""
    counted: str
    """The stream whose rows or tokens are counted."""

    def count(self, streams: Streams, rows: Rows) -> int:
        """By what the sum of values is divided: rows, or answer tokens, of the global batch."""
        chosen = rows[self.counted]
        if self.per == "row":
            return len(chosen)
        items = streams[self.counted]
        return sum(items[row].end - items[row].start for row in chosen)


def split_by_stream(scores: Scores, names: Sequence[str]) -> dict[str, Scores]:
    """Scores of rows that were stacked stream after stream in one forward pass."""
    return dict(zip(names, split_scores(scores, len(names)), strict=True))


def forget_term(
    method: Any,
    needs: Needs,
    weight: float,
    alternates: Alternates | None,
    store: ReferenceStore | None,
) -> Term:
    """The method's own term."""

    def rows(step: Step) -> Rows:
        drawn: dict[str, Callable[[Step], Sequence[int]]] = {
            "forget": lambda step: step.forget.tolist(),
        }
        if alternates is not None:
            drawn["alternate"] = alternates.rows
        return {stream: drawn[stream](step) for stream in needs.streams}

    def values(scores: Mapping[str, Scores], chosen: Rows) -> Tensor:
        given = dict(scores)
        if store is not None:
            for name, stream in REFERENCES.items():
                if name in needs.parameters:
                    given[name] = store.scores(stream, chosen[stream], scores[stream])
        result: Tensor = method.forget_loss(**{name: given[name] for name in needs.parameters})
        return result

    return Term("forget", weight, needs.per, rows, values, counted=needs.streams[0])


def nll_term(name: str, weight: float) -> Term:
    """Token mean of the negative log-likelihood of a stream: the retain term `nll`, and what
    plain fine-tuning minimises."""

    def rows(step: Step) -> Rows:
        return {name: (step.retain if name == "retain" else step.forget).tolist()}

    def values(scores: Mapping[str, Scores], _: Rows) -> Tensor:
        return -scores[name].token_logp

    return Term(name, weight, "token", rows, values, counted=name)


def kl_term(weight: float, store: ReferenceStore) -> Term:
    """KL(reference || model) at the answer tokens of the retain rows, token mean.

    Differences from locuslab/tofu and open-unlearning: 1. prompt and padding positions do not
    enter, so that padding does not dilute the term; the same coefficient is therefore stronger.
    """

    def rows(step: Step) -> Rows:
        return {"retain": step.retain.tolist()}

    def values(scores: Mapping[str, Scores], chosen: Rows) -> Tensor:
        now = scores["retain"]
        before = store.scores("retain", chosen["retain"], now).logits.log_softmax(-1)
        return (before.exp() * (before - now.logits.log_softmax(-1))).sum(-1)

    return Term("retain", weight, "token", rows, values, counted="retain")


class Alternates:
    """The alternate answers that the plan draws: encoded once each, as a stream of their own."""

    def __init__(
        self,
        plan: Plan,
        choices: Sequence[Sequence[str]],
        encode: Callable[[int, str], Encoded],
    ) -> None:
        """
        Args:
            plan: whose draws pick among the choices.
            choices: for each forget row, at least one answer.
            encode: forget row and answer -> encoded.
        """
        self.choices = choices
        drawn = sorted({pair for step in plan.steps for pair in self._pairs(step)})
        self._where = {pair: k for k, pair in enumerate(drawn)}
        self.items = [encode(row, choices[row][number]) for row, number in drawn]

    def _pairs(self, step: Step) -> list[tuple[int, int]]:
        rows = zip(step.forget.tolist(), step.draw.tolist(), strict=True)
        return [(row, draw % len(self.choices[row])) for row, draw in rows]

    def rows(self, step: Step) -> list[int]:
        """The rows of the alternate stream that a step takes, aligned with its forget rows."""
        return [self._where[pair] for pair in self._pairs(step)]


def reference_requests(
    plan: Plan, streams: Streams, needs: Needs, retain: str
) -> tuple[Request, ...]:
    """What the reference pass must score for this method, retain term and plan."""
    wanted = dict.fromkeys(needs.references, needs.reference_logits)
    if retain == "kl":
        wanted["retain"] = True
    drawn: dict[str, Callable[[], Any]] = {
        "forget": lambda: np.unique(np.concatenate([step.forget for step in plan.steps])),
        "retain": lambda: np.unique(np.concatenate([step.retain for step in plan.steps])),
        "alternate": lambda: np.arange(len(streams["alternate"])),
    }
    return tuple(
        Request(stream, streams[stream], drawn[stream]().tolist(), logits)
        for stream, logits in wanted.items()
    )
