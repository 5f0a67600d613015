"""From probes to scored rows: each row scored once, each prompt answered once, on all processes.

Batches are formed from all rows (`distinct`) and then dealt out, so what stands beside a row in its
batch does not depend on the number of processes: one process and eight give the same bits.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object

from unlearn_cli.api.data import Row
from unlearn_cli.api.evaluate import Answer, AnswerScore, Decoding, Need, Probe, ScoredRow
from unlearn_cli.api.scores import Scores
from unlearn_cli.engine.distinct import Distinct
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.forward import Scorer, See
from unlearn_cli.engine.generate import Prompt, evaluating, generate_batch
from unlearn_cli.engine.gradient_norms import gradient_norms
from unlearn_cli.engine.keys_values import token_bytes
from unlearn_cli.engine.memory import fitting
from unlearn_cli.engine.sharding import dealt, is_sharded
from unlearn_cli.errors import RunError

POSITIONS = 32
"""Whose distributions are in memory at once, in float64."""
ROW_BYTES, MOST_TOKENS = 16 * 2**20, 2**13
"""Of keys and values that a row of a batch may take. Where they take less, more prompts are
answered together, up to so many tokens: a token for more rows hardly takes longer."""
T = TypeVar("T")
R = TypeVar("R")


class Memo:
    """What one model has said so far: evaluators that ask the same share it."""

    def __init__(self) -> None:
        self.answers: Distinct[Encoded, AnswerScore] = Distinct()
        self.spread: Distinct[Encoded, AnswerScore] = Distinct()
        """True answers with what `distribution` asks for."""
        self.gradients: Distinct[Encoded, float] = Distinct()
        self.texts: dict[Decoding, Distinct[tuple[Prompt, int], str]] = defaultdict(Distinct)
        """By decoding, what to answer: a prompt, and the number of the draw."""

    @property
    def parts(self) -> list[Distinct[Any, Any]]:
        """All of it."""
        return [self.answers, self.spread, self.gradients, *self.texts.values()]


@dataclass(frozen=True)
class _Plan:
    """Where the results of a probe will stand: an answer is a list of chunks."""

    probe: Probe
    answers: Mapping[Answer, tuple[Distinct[Encoded, AnswerScore], Sequence[Sequence[int]]]]
    gradients: Sequence[int]
    """Of the chunks of the true answer."""
    generation: Sequence[int]
    samples: Sequence[int]


def score_probes(
    scorer: Scorer,
    encoder: Encoder,
    probes: Sequence[Probe],
    *,
    batch_size: int,
    accelerator: Any,
    needs: Callable[[str], Collection[Need]] = lambda set_: (),
    memo: Memo | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ScoredRow]:
    """Score and answer what the probes ask for.

    Args:
        scorer: of the causal language model.
        encoder: turns rows into token ids.
        probes: what to score; equal token sequences are computed once.
        batch_size: of the longest rows in one forward pass of one process; of shorter ones more go
            together, up to as many tokens, and prompts also up to `ROW_BYTES` a row. Halved where
            memory runs out.
        accelerator: `accelerate.Accelerator`; every process must call this function.
        needs: of the metrics of a set: whether they want `distribution` or `gradient`.
        memo: what the model has said before, which is not computed again.
        seed: of the drawn answers.
        progress: told how many of the probes are done, in proportion.

    Returns:
        The scored rows in the order of the probes, the same on every process.

    Raises:
        RunError: the model gives a NaN.
    """
    memo = memo or Memo()
    plans = [_plan(probe, encoder, memo, frozenset(needs(probe.set))) for probe in probes]
    count = sum(len(part.missing) for part in memo.parts)
    advance = _in_proportion(progress, len(probes), count)
    work = _Work(accelerator, batch_size, advance, is_sharded(scorer.model))
    with evaluating(scorer):
        work.share(memo.answers, _length, lambda items: _score(scorer, items), group=_prompt)
        work.share(
            memo.spread, _length, lambda items: _score(scorer, items, spread=True), group=_prompt
        )
        for decoding, texts in memo.texts.items():
            work.share(
                texts,
                _with_answer(decoding),
                lambda items, how=decoding: _answer(scorer, encoder, items, how, seed),  # type: ignore[misc]
                least=_least(scorer.model, batch_size),
            )
    # Processes of a sharded model add up their gradients, so all of them take the same row.
    work = replace(work, alike=work.sharded)
    work.share(memo.gradients, _length, lambda items: gradient_norms(scorer, items), 1)
    return [_scored_row(plan, memo) for plan in plans]


@dataclass(frozen=True)
class Asked:
    """What probes ask of a model, in the batches in which `score_probes` does so."""

    scored: Sequence[tuple[Sequence[Encoded], bool]]
    """Batches, and whether their distributions are looked at."""
    answered: Sequence[tuple[Sequence[Prompt], int]]
    """Batches of prompts, and the tokens of an answer."""
    pulled: Sequence[Encoded]
    """Rows whose gradients are looked at, one by one."""


def what_is_asked(
    model: Any,
    encoder: Encoder,
    probes: Sequence[Probe],
    batch_size: int,
    needs: Callable[[str], Collection[Need]],
    memo: Memo,
) -> Asked:
    """What `score_probes` would ask of a model, or of the one whose skeleton is given, arguments as
    there; `memo` keeps it as if it were known from now on, with no results."""
    for probe in probes:
        _plan(probe, encoder, memo, frozenset(needs(probe.set)))
    scored = [
        ([part.items[place] for place in batch], spread)
        for part, spread in ((memo.answers, False), (memo.spread, True))
        for batch in part.batches(_length, batch_size, group=_prompt)
    ]
    least = _least(model, batch_size)
    answered = [
        ([texts.items[place][0] for place in batch], decoding.max_new_tokens)
        for decoding, texts in memo.texts.items()
        for batch in texts.batches(_with_answer(decoding), batch_size, least=least)
    ]
    pulled = [memo.gradients.items[place] for place in memo.gradients.missing]
    for part in memo.parts:
        part.results |= dict.fromkeys(part.missing)
    return Asked(scored, answered, pulled)


def _least(model: Any, batch_size: int) -> int:
    """Tokens, of prompts and answers, that go together in any case; 0 for a sharded model, where no
    batch can be halved."""
    size = token_bytes(model)
    if not size or is_sharded(model):
        return 0
    return min(batch_size * ROW_BYTES // size, MOST_TOKENS)


def _with_answer(decoding: Decoding) -> Callable[[tuple[Prompt, int]], int]:
    """Tokens of a prompt and its answer, at most."""
    return lambda item: len(item[0]) + decoding.max_new_tokens


def _plan(probe: Probe, encoder: Encoder, memo: Memo, needs: Collection[Need]) -> _Plan:
    row = probe.row

    def part(kind: Answer) -> Distinct[Encoded, AnswerScore]:
        spread = kind == "answer" and "distribution" in needs
        return memo.spread if spread else memo.answers

    def add(part: Distinct[Encoded, Any], text: str) -> list[int]:
        chunks = encoder.encode(row, answer=text)
        return [part.add((c.input_ids.tobytes(), c.start, c.end), c) for c in chunks]

    def ask(decoding: Decoding | None) -> list[int]:
        if decoding is None:
            return []
        prompt = encoder.prompt(row, prefix=decoding.prefix)
        if not len(prompt):
            return []
        texts, draws = memo.texts[decoding], range(max(1, decoding.samples))
        return [texts.add((prompt.tobytes(), draw), (prompt, draw)) for draw in draws]

    return _Plan(
        probe,
        {
            kind: (part(kind), [add(part(kind), t) for t in _texts(row, kind)])
            for kind in probe.score
        },
        add(memo.gradients, row.answer) if "gradient" in needs else (),
        ask(probe.generate),
        ask(probe.draw),
    )


def _texts(row: Row, kind: Answer) -> tuple[str, ...]:
    if kind == "perturbed":
        return row.perturbed
    text = row.answer if kind == "answer" else row.paraphrase
    return () if text is None else (text,)


@dataclass(frozen=True)
class _Work:
    """All processes, computing what is missing together."""

    accelerator: Any
    batch_size: int
    advance: Callable[[int], None]
    sharded: bool
    """Whether a pass takes all processes."""
    alike: bool = False
    """Whether each process runs everything, rather than its share."""

    def share(
        self,
        part: Distinct[T, R],
        length: Callable[[T], int],
        run: Callable[[list[T]], Sequence[R]],
        batch_size: int | None = None,
        *,
        group: Callable[[T], object] | None = None,
        least: int = 0,
    ) -> None:
        """Run what has no result yet; afterwards every process has all results."""
        batches = part.batches(length, batch_size or self.batch_size, group=group, least=least)
        processes = 1 if self.alike else self.accelerator.num_processes
        me, mine = 0 if self.alike else self.accelerator.process_index, list[tuple[int, R]]()
        for number, (batch, ours) in enumerate(dealt(batches, processes, me)):
            results = fitting(run, [part.items[place] for place in batch], split=not self.sharded)
            if ours:
                mine.extend(zip(batch, results, strict=True))
            done = batches[number * processes : (number + 1) * processes]
            self.advance(sum(map(len, done)))
        if batches:
            part.results.update(gather_object(mine))


def _length(item: Encoded) -> int:
    return len(item.input_ids)


def _prompt(item: Encoded) -> bytes:
    """Answers under one prompt are scored together, so that it is run once."""
    return item.input_ids[: item.start].tobytes()


def _score(scorer: Scorer, items: list[Encoded], *, spread: bool = False) -> list[AnswerScore]:
    """One forward pass."""
    found = scorer.look(items, seeing(spread=spread))
    edges = np.cumsum([item.end - item.start for item in items])[:-1]
    rows: dict[str, Any] = {k: np.split(v.cpu().numpy(), edges) for k, v in found.items()}
    return [AnswerScore(**{k: v[i] for k, v in rows.items()}) for i in range(len(items))]


def seeing(*, spread: bool) -> See:
    """What is seen in scores: fields of `AnswerScore`, each (n,) of the answer tokens; `spread`
    adds those that look at whole distributions."""

    def see(scores: Scores) -> dict[str, torch.Tensor]:
        found = {
            "token_logp": scores.token_logp.double(),
            "correct": scores.logits.argmax(-1) == scores.labels,
        }
        if spread:
            moments = [_moments(part) for part in torch.split(scores.logits, POSITIONS)]
            expected, deviation = (torch.cat(part) for part in zip(*moments, strict=True))
            found |= {"expected_logp": expected, "spread_logp": deviation}
        return found

    return see


def _moments(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, V) -> mean and standard deviation (n,) of log p under p."""
    logp = logits.double().log_softmax(-1)
    p = logp.exp()
    expected = (p * logp).sum(-1)
    return expected, (p * (logp - expected[:, None]).square()).sum(-1).sqrt()


def _answer(
    scorer: Scorer,
    encoder: Encoder,
    items: list[tuple[Prompt, int]],
    decoding: Decoding,
    seed: int,
) -> list[str]:
    """Texts of a batch; what is drawn depends on what stands in it, and on no process."""
    content = hashlib.sha256(b"".join(ids.tobytes() + n.to_bytes(4, "big") for ids, n in items))
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(content.digest()[:6], "big") + seed)
        prompts = [ids for ids, _ in items]
        return generate_batch(scorer.model, encoder, prompts, decoding, packs=scorer.packs)


def _scored_row(plan: _Plan, memo: Memo) -> ScoredRow:
    probe = plan.probe
    found = {
        kind: [_joined([scores.results[k] for k in chunks]) for chunks in answers if chunks]
        for kind, (scores, answers) in plan.answers.items()
    }
    if any(np.isnan(score.token_logp).any() for part in found.values() for score in part):
        raise RunError(
            "the model gives NaN instead of probabilities",
            where=f"evaluation set {probe.set!r}, row {probe.row.id!r}",
            hint="its weights are damaged: train with a lower learning rate or another dtype",
        )
    answer = next(iter(found.get("answer", ())), None)
    if answer and plan.gradients:
        norms = [memo.gradients.results[place] for place in plan.gradients]
        answer = replace(answer, gradient_norm=float(np.mean(norms)))

    def said(decoding: Decoding | None, places: Sequence[int]) -> tuple[str, ...]:
        return tuple(memo.texts[decoding].results[k] for k in places) if decoding else ()

    return ScoredRow(
        set=probe.set,
        row=probe.row,
        answer=answer,
        paraphrase=next(iter(found.get("paraphrase", ())), None),
        perturbed=tuple(found.get("perturbed", ())),
        generation=next(iter(said(probe.generate, plan.generation)), None),
        samples=said(probe.draw, plan.samples),
    )


def _joined(chunks: Sequence[AnswerScore]) -> AnswerScore:
    """The chunks of a long text as one answer."""
    names = ("token_logp", "correct", "expected_logp", "spread_logp")
    parts = {name: [getattr(chunk, name) for chunk in chunks] for name in names}
    whole: Any = {k: np.concatenate(part) for k, part in parts.items() if part[0] is not None}
    return AnswerScore(**whole)


def _in_proportion(progress: Callable[[int], None], rows: int, items: int) -> Callable[[int], None]:
    """Count finished items and report them as rows."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(rows * done // items)

    return advance
