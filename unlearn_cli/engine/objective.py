"""The loss of a step as a sum of terms: the method's forget term and the retain term.

A term says which rows it takes from a step, how to turn their scores into values, and whether these
count a row or a token. The engine does the rest, so that terms differ only in their formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unlearn_cli.api.hidden import Hidden
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.engine.method import PARAMETERS, Needs, Per
from unlearn_cli.engine.plan import Plan, Step
from unlearn_cli.engine.reference import ReferenceStore, Request
from unlearn_cli.engine.sequences import Indices

Streams = Mapping[str, Sequence[Encoded]]
Rows = Mapping[str, Sequence[int]]
"""For each stream that a term reads, which of its rows: aligned lists of equal length."""
Seen: TypeAlias = "Mapping[str, Scores | Hidden]"
"""What the model in training says of each stream that a term reads."""
Stores: TypeAlias = Mapping[str, ReferenceStore]
"""What other models said before training: `reference`, `reinforced`."""


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    name: str
    weight: float
    per: Per
    rows: Callable[[Step], Rows]
    values: Callable[[Any, Rows], Tensor]
    """What the model says of each stream (`Seen`) -> (B,), (N,) or (P,) values."""
    counted: str
    """The stream whose rows or tokens are counted."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """Where it reads activations rather than scores: pattern -> name of the block."""

    def count(self, streams: Streams, rows: Rows) -> int:
        """By what the sum of values is divided: rows, answer tokens, or tokens, of the global
        batch."""
        chosen = [streams[self.counted][row] for row in rows[self.counted]]
        if self.per == "row":
            return len(chosen)
        if self.per == "position":
            return sum(len(item.input_ids) for item in chosen)
        return sum(item.end - item.start for item in chosen)


def forget_term(
    method: Any,
    needs: Needs,
    weight: float,
    alternates: Alternates | None,
    stores: Stores,
    layers: Mapping[str, str] | None = None,
) -> Term:
    """The method's own term; `layers` says which block each of its patterns means."""

    def rows(step: Step) -> Rows:
        drawn: dict[str, Callable[[Step], Sequence[int]]] = {
            "forget": lambda step: step.forget.tolist(),
        }
        if alternates is not None:
            drawn["alternate"] = alternates.rows
        return {stream: drawn[stream](step) for stream in needs.streams}

    def values(seen: Seen, chosen: Rows) -> Tensor:
        def give(name: str) -> Scores | Hidden:
            wanted = PARAMETERS[name]
            now = seen[wanted.stream]
            if wanted.of == "now":
                return now
            return stores[wanted.of].said(wanted.stream, chosen[wanted.stream], now)

        result: Tensor = method.forget_loss(**{name: give(name) for name in needs.parameters})
        return result

    return Term(
        "forget", weight, needs.per, rows, values, counted=needs.streams[0], layers=layers or {}
    )


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


def entropy_term(stream: str, weight: float, reads: str | None = None) -> Term:
    """Entropy of the model's distribution at the answer tokens of a stream, token mean, nats.

    With a positive weight on forget rows answers become nearly certain, so that sampling cannot
    leak another; with a negative weight on retain rows these stay diverse.

    Source: Scholten et al., A Probabilistic Perspective on Unlearning and Alignment for LLMs, 2024,
    arXiv:2410.03523. Differences from the official code: 1. answer tokens alone; there all
    positions.

    Args:
        stream: `forget` or `retain`.
        weight: of the term.
        reads: the stream that has its answers, where that is another.
    """
    reads = reads or stream

    def rows(step: Step) -> Rows:
        return {reads: (step.retain if stream == "retain" else step.forget).tolist()}

    def values(seen: Mapping[str, Scores], _: Rows) -> Tensor:
        logp = seen[reads].logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    return Term(f"{stream}_entropy", weight, "token", rows, values, counted=reads)


DISTANCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "hidden": lambda moved: moved.square().mean(-1),
    # Smooth at 0, where every run starts: there a bare norm turns rounding noise into a direction.
    "hidden_norm": lambda moved: (moved.square().sum(-1) + 1e-12).sqrt(),
}
"""Retain terms on activations: how far they moved, (P, d) -> (P,). The mean square is that of RMU
(Li et al. 2024, arXiv:2403.03218), the Euclidean norm that of representation rerouting (Zou et al.
2024, arXiv:2406.04313). Differences from their code: 1. padding does not enter."""


def hidden_term(
    weight: float,
    store: ReferenceStore,
    layers: Mapping[str, str],
    distance: Callable[[Tensor], Tensor],
) -> Term:
    """Distance of the retain rows' activations to those of the reference: mean over tokens
    (prompts included) and layers."""

    def rows(step: Step) -> Rows:
        return {"retain": step.retain.tolist()}

    def values(seen: Mapping[str, Hidden], chosen: Rows) -> Tensor:
        now = seen["retain"]
        before = store.hidden("retain", chosen["retain"], now)
        distances = [distance(now.layers[k] - before.layers[k]) for k in layers]
        return torch.stack(distances).mean(0)

    return Term("retain", weight, "position", rows, values, counted="retain", layers=layers)


def all_terms(
    method: Any,
    needs: Needs,
    gamma: float,
    alpha: float,
    retain: str,
    alternates: Alternates | None,
    stores: Stores,
    layers: Mapping[str, str],
) -> list[Term]:
    """The forget term, and the retain term unless it is `none`."""
    terms = [forget_term(method, needs, gamma, alternates, stores, layers)]
    if retain == "nll":
        terms.append(nll_term("retain", alpha))
    elif retain == "kl":
        terms.append(kl_term(alpha, stores["reference"]))
    elif retain in DISTANCES:
        terms.append(hidden_term(alpha, stores["reference"], layers, DISTANCES[retain]))
    return terms


def of_account(terms: Sequence[Term], *, reweighed: bool) -> list[Term]:
    """Those that a step computes: not a term of weight 0, unless the method may change that."""
    return [term for term in terms if term.weight != 0 or term.name == "forget" or reweighed]


class Alternates:
    """The alternate answers that the plan draws: encoded once each, as a stream of their own."""

    def __init__(
        self,
        plan: Plan,
        choices: Sequence[Sequence[str]],
        encode: Callable[[Sequence[tuple[int, str]]], Sequence[Encoded]],
    ) -> None:
        """
        Args:
            plan: whose draws pick among the choices.
            choices: for each forget row, at least one answer.
            encode: forget rows, each with an answer -> encoded.
        """
        self._counts = np.array([len(answers) for answers in choices], np.int64)
        self._most = int(self._counts.max())
        drawn = np.empty(0, np.int64)
        for start in range(0, len(plan.steps), plan.steps_per_epoch):
            epoch = plan.steps[start : start + plan.steps_per_epoch]
            drawn = np.unique(np.concatenate([drawn, *map(self._pairs, epoch)]))
        self._drawn = drawn

        def pair(code: int) -> tuple[int, str]:
            row, number = divmod(code, self._most)
            return row, choices[row][number]

        self.items = encode(Lazy(drawn, pair))

    def _pairs(self, step: Step) -> Indices:
        """(B,) row and number of the answer, in one whole number."""
        return step.forget * self._most + step.draw % self._counts[step.forget]

    def rows(self, step: Step) -> list[int]:
        """The rows of the alternate stream that a step takes, aligned with its forget rows."""
        rows: list[int] = np.searchsorted(self._drawn, self._pairs(step)).tolist()
        return rows


def reference_requests(
    plan: Plan,
    streams: Streams,
    needs: Needs,
    retain: str,
    layers: Mapping[str, str] | None = None,
) -> tuple[Request, ...]:
    """What the reference pass must score for this method, retain term and plan."""
    layers = layers or {}
    wanted = dict.fromkeys(needs.references, (needs.reference_logits, layers))
    if retain == "kl" or retain in DISTANCES:
        wanted["retain"] = (retain == "kl", layers if retain in DISTANCES else {})

    def rows(stream: str) -> Indices:
        every = stream == "alternate"  # that stream holds no others than are drawn
        return np.arange(len(streams[stream])) if every else drawn(plan, stream)

    return tuple(
        Request(stream, streams[stream], rows(stream), logits, of_layers)
        for stream, (logits, of_layers) in wanted.items()
    )


def drawn(plan: Plan, stream: str) -> Indices:
    """The rows of `forget` or `retain` that the plan draws, ascending, each once."""
    return plan.forget_rows if stream == "forget" else plan.retain_rows
