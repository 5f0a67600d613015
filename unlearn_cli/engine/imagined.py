"""What changes a model, done to one without data: unlearning, fine-tuning, stress tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unlearn_cli.api.data import Row
from unlearn_cli.api.evaluate import Recipe, Subject
from unlearn_cli.engine.asking import Cost
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.estimate import (
    Estimate,
    UnforeseenError,
    counting,
    estimate_step,
    imagine,
)
from unlearn_cli.engine.evaluate import Job, restored
from unlearn_cli.engine.fit import fitting_rows
from unlearn_cli.engine.gradients import Smoothing
from unlearn_cli.engine.objective import Streams, Term, of_account
from unlearn_cli.engine.plan import Plan
from unlearn_cli.engine.reference import FrozenHead, ReferenceStore, Request
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.speed import Speed
from unlearn_cli.engine.target import Tuning, plan_briefly, train_own
from unlearn_cli.engine.train import Optimization, recompute_activations
from unlearn_cli.engine.work import Work, optimization, rows_at_once, smoothing
from unlearn_cli.errors import UnlearnError
from unlearn_cli.safe_text import first_line
from unlearn_cli.spec.tables import Spec


def unlearning(
    spec: Spec, work: Work, skeleton: Any, accelerator: Accelerator, speed: Speed
) -> tuple[int, Estimate]:
    """Rows in a micro-batch, and what a step takes; what requires gradients is trained."""
    return _estimate(
        lambda: _start(spec, work, skeleton, accelerator.device),
        _terms(work, spec, defaultdict(lambda: None)),
        work.streams,
        work.plan,
        accelerator,
        optimization(spec),
        smoothing=smoothing(spec),
        speed=speed,
    )


def saliency(
    spec: Spec, work: Work, skeleton: Any, accelerator: Accelerator, speed: Speed
) -> Estimate:
    """A look at the gradients of the forget term; what requires them has them."""

    def start() -> tuple[Any, Sequence[Term]]:
        model, terms = _start(spec, work, skeleton, accelerator.device)
        return model, terms[:1]

    return estimate_step(
        start,
        work.streams,
        work.plan,
        accelerator,
        micro_batch=rows_at_once(spec),
        optimizer=None,
        speed=speed,
    )


def tuning(
    planned: Tuning, skeleton: Any, accelerator: Accelerator, speed: Speed
) -> tuple[int, Estimate]:
    """As `unlearning`, of plain fine-tuning of all parameters."""

    def start() -> tuple[Any, Sequence[Term]]:
        model = imagine(skeleton.train(), accelerator.device)
        train_own(model)
        return model, planned.terms

    return _estimate(
        start,
        planned.terms,
        planned.streams,
        planned.plan,
        accelerator,
        planned.optimization,
        smoothing=None,
        speed=speed,
    )


@dataclass(frozen=True)
class Changed:
    """What a stress test does to a model before that is measured again."""

    cost: Cost
    """Of what it does itself."""
    kept: int
    """Bytes of the copy from which the model is restored."""
    tunings: Sequence[tuple[int, Tuning]]
    """What it fine-tunes, and the bytes that are beside the model then."""
    reason: str = ""
    """Why nothing of this can be known, but for the copy."""


def change(job: Job, session: Session, encoder: Encoder, skeleton: Any, speed: Speed) -> Changed:
    """The change itself, made to a model without data: what it makes is counted, and what it would
    have fine-tuned is noted."""
    tunings: list[tuple[int, Tuning]] = []
    kept, cost, device, reason = 0, Cost(), session.device, ""
    try:
        with counting(device, speed) as ledger:
            model = imagine(skeleton.eval(), device)
            held = ledger.alive

            def tune(rows: Sequence[Row], recipe: Recipe) -> None:
                planned = plan_briefly(session, encoder, rows, recipe, stage=job.name)
                tunings.append((ledger.alive - held, planned))

            subject = Subject(
                model, encoder.tokenizer, session.bundle, session.spec.seed, tune, job.batch_size
            )
            with restored(model):
                kept, ledger.seconds = ledger.alive - held, 0.0
                job.plugin.change(subject)
                cost = Cost(ledger.peak - held, ledger.seconds)
    except UnforeseenError:
        reason = "it looks at values"
    except UnlearnError:
        raise
    except Exception as error:  # noqa: BLE001 - in whatever way a change may need values
        reason = f"{type(error).__name__}: {first_line(error)}"
    return Changed(cost, kept, tunings, reason)


def _estimate(
    start: Callable[[], tuple[Any, Sequence[Term]]],
    terms: Sequence[Term],
    streams: Streams,
    plan: Plan,
    accelerator: Accelerator,
    options: Optimization,
    *,
    smoothing: Smoothing | None,
    speed: Speed,
) -> tuple[int, Estimate]:
    def begin() -> tuple[Any, Sequence[Term]]:
        model, its_terms = start()
        if options.activation_checkpointing:
            recompute_activations(model)
        return model, its_terms

    around: Any = {"optimizer": options.optimizer, "smoothing": smoothing}
    rows = options.micro_batch
    if rows == "auto":
        rows = fitting_rows(begin, terms, streams, plan, accelerator, **around)
    found = estimate_step(
        begin, streams, plan, accelerator, micro_batch=rows, speed=speed, **around
    )
    return rows, found


def _terms(work: Work, spec: Spec, stores: Any) -> list[Term]:
    return of_account(work.terms(spec, stores), reweighed=hasattr(work.method, "weights"))


def _start(
    spec: Spec, work: Work, skeleton: Any, device: torch.device
) -> tuple[Any, Sequence[Term]]:
    """The model about to be trained, and the terms of its loss, all without data."""
    model = imagine(skeleton.train(), device)
    stores = {"reference": _Store(model, work.requests(spec))}
    if work.needs.reinforced:
        stores["reinforced"] = _Store(model, [work.reinforced_request()])
    return model, _terms(work, spec, stores)


class _Store(ReferenceStore):
    """A reference store that has not been made."""

    def __init__(self, model: Any, requests: Sequence[Request]) -> None:
        self.head = FrozenHead(model) if any(request.logits for request in requests) else None
        self._streams = {request.stream: _Shapes(request, model) for request in requests}  # type: ignore[misc]


class _Shapes:
    """What a stream of the store would give, without data."""

    def __init__(self, request: Request, model: Any) -> None:
        self.items, self.dtype = request.items, model.dtype
        self.width = model.get_output_embeddings().weight.shape[1]

    def read(self, what: str, rows: Sequence[int]) -> Tensor:
        items = [self.items[row] for row in rows]
        if what.startswith("layer"):
            return torch.empty(sum(len(item.input_ids) for item in items), self.width)
        answers = sum(item.end - item.start for item in items)
        if what == "hidden":
            return torch.empty(answers, self.width, dtype=self.dtype)
        return torch.empty(answers)
