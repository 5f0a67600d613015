"""What it takes to ask a model for scores and answers, counted on tensors without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.estimate import counting, imagine
from unlearn_cli.engine.forward import Scorer, See
from unlearn_cli.engine.generate import Prompt
from unlearn_cli.engine.gradient_norms import gradient_norm
from unlearn_cli.engine.keys_values import last_logits, read, token_bytes
from unlearn_cli.engine.reference import FrozenHead, Request
from unlearn_cli.engine.score import Asked, seeing
from unlearn_cli.engine.sequences import Sequences
from unlearn_cli.engine.speed import Speed
from unlearn_cli.engine.target import train_own


@dataclass(frozen=True)
class Cost:
    """What something takes of a device."""

    memory: int = 0
    """Bytes at the peak, besides those of the model."""
    seconds: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(max(self.memory, other.memory), self.seconds + other.seconds)

    def times(self, count: float) -> Cost:
        """The same again and again."""
        return Cost(self.memory, self.seconds * count)


@dataclass(frozen=True)
class Asking:
    """A model about to be asked, by its skeleton."""

    skeleton: Any
    device: torch.device
    speed: Speed
    whole: int = 0
    """Bytes that are there besides while no layer has 4 bits."""
    sharded: bool = False
    """Whether the model will be, which the skeleton is not."""

    def cost(self, asked: Asked) -> Cost:
        """Of everything that is asked."""
        found = Cost()
        for spread in (False, True):
            batches = [items for items, looked in asked.scored if looked == spread]
            found = found.then(self._scored(batches, spread=spread))
        return found.then(self._answered(asked.answered)).then(self._pulled(asked.pulled))

    def request(self, request: Request, micro_batch: int) -> Cost:
        """Of a reference pass, in micro-batches of so many rows."""
        lengths = Sequences.of(request.items).lengths[request.rows]
        longest = request.rows[lengths.argsort(kind="stable")][-micro_batch:].tolist()
        items = [request.items[row] for row in longest]

        def run(scorer: Scorer) -> None:
            scores: Any = scorer(items, request.layers)
            if request.logits:  # they are made a second time, and held against each other
                torch.isclose(FrozenHead(scorer.model)(scorer.hidden), scores.logits)

        found = self._run(torch.no_grad()(run))
        return found.times(int(lengths.sum()) / _tokens(items))

    def _run(self, run: Callable[[Scorer], object]) -> Cost:
        """Of one pass."""
        with counting(self.device, self.speed) as ledger:
            model = imagine(self.skeleton.eval(), self.device)
            held, ledger.seconds = ledger.alive, 0.0
            run(Scorer(model))
        return Cost(ledger.peak - held, ledger.seconds)

    def _scored(self, batches: Sequence[Sequence[Encoded]], *, spread: bool) -> Cost:
        """The batch with the most tokens and that with the most answers stand for all."""
        if not batches:
            return Cost()
        most = max(batches, key=_tokens)
        widest = max(batches, key=lambda items: sum(item.end - item.start for item in items))

        see = seeing(spread=spread)

        def run(items: Sequence[Encoded]) -> Cost:
            return self._run(torch.no_grad()(lambda scorer: self._looked(scorer, items, see)))

        first = run(most)
        memory = first.memory if widest is most else max(first.memory, run(widest).memory)
        return Cost(memory, first.seconds / _tokens(most) * sum(map(_tokens, batches)))

    def _looked(self, scorer: Scorer, items: Sequence[Encoded], see: See) -> object:
        return see(scorer.score(items)) if self.sharded else scorer.look(items, see)

    def _answered(self, batches: Sequence[tuple[Sequence[Prompt], int]]) -> Cost:
        """Answers as long as they may become: prompts are read, then tokens made one by one."""
        if not batches:
            return Cost()
        prompts, most = max(batches, key=lambda batch: len(batch[0]) * _longest(batch[0]))
        begun = self._run(torch.no_grad()(lambda scorer: self._read(scorer, prompts, most)))
        step = self._run(torch.no_grad()(lambda scorer: _say(scorer.model, len(prompts))))
        kept, seconds = 0, 0.0
        for asked, new in batches:
            size = len(asked) * (_longest(asked) + new) * token_bytes(self.skeleton)
            kept = max(kept, size)
            seconds += begun.seconds * sum(map(len, asked)) / sum(map(len, prompts))
            seconds += new * (step.seconds + self.speed.seconds(0, size))
        return Cost(max(begun.memory, kept + step.memory), seconds)

    def _read(self, scorer: Scorer, prompts: Sequence[Prompt], new: int) -> None:
        model, tokens = scorer.model, _longest(prompts) + new
        if not self.sharded and min(map(len, prompts)) > 1 and scorer.packs(tokens):
            read(model, prompts, tokens)
        else:
            ids = _ids(model, len(prompts), _longest(prompts))
            model(input_ids=ids, use_cache=True, **last_logits(model))

    def _pulled(self, items: Sequence[Encoded]) -> Cost:
        """Gradients of all weights, row by row; weights of 4 bits are whole meanwhile."""
        if not items:
            return Cost()
        longest = max(items, key=lambda item: len(item.input_ids))

        def run(scorer: Scorer) -> Tensor:
            train_own(scorer.model)
            trained = [p for p in scorer.model.parameters() if p.requires_grad]
            return gradient_norm(scorer, longest, trained)

        found = self._run(run).times(_tokens(items) / _tokens([longest]))
        return Cost(found.memory + self.whole, found.seconds)


def weight_bytes(model: Any) -> int:
    """Of all parameters and buffers."""
    return sum(int(tensor.nbytes) for tensor in [*model.parameters(), *model.buffers()])


def _say(model: Any, rows: int) -> None:
    model(input_ids=_ids(model, rows, 1), use_cache=False)


def _ids(model: Any, rows: int, length: int) -> Tensor:
    return torch.zeros(rows, length, dtype=torch.long, device=model.device)


def _longest(prompts: Sequence[Prompt]) -> int:
    return max(map(len, prompts))


def _tokens(items: Sequence[Encoded]) -> int:
    return sum(len(item.input_ids) for item in items)
