"""What a method is going to do, known before any model is loaded: its plan and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_cli import catalog
from unlearn_cli.engine.data import EncodedSplit, encode_split, load_alternates
from unlearn_cli.engine.encode import Encoded, Encoder
from unlearn_cli.engine.method import Needs, inspect_method
from unlearn_cli.engine.objective import (
    Alternates,
    Term,
    forget_term,
    kl_term,
    nll_term,
    reference_requests,
)
from unlearn_cli.engine.plan import Plan, make_plan
from unlearn_cli.engine.reference import ReferenceStore, Request
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.train import Optimization
from unlearn_cli.errors import DataError, RunError
from unlearn_cli.spec.tables import Spec

GIB = 2**30


@dataclass(frozen=True)
class Work:
    """What a method is going to do: its plan, and every row that the plan draws, encoded."""

    method: Any
    needs: Needs
    plan: Plan
    streams: Mapping[str, list[Encoded]]
    alternates: Alternates | None
    splits: Mapping[str, EncodedSplit]

    def terms(self, spec: Spec, store: ReferenceStore | None) -> list[Term]:
        """The terms of the loss."""
        gamma, alpha = float(spec.method.gamma or 0), float(spec.method.alpha or 0)
        terms = [forget_term(self.method, self.needs, gamma, self.alternates, store)]
        if spec.method.retain == "nll":
            terms.append(nll_term("retain", alpha))
        elif spec.method.retain == "kl" and store is not None:
            terms.append(kl_term(alpha, store))
        return terms

    def requests(self, spec: Spec) -> tuple[Request, ...]:
        """What the reference pass must score."""
        return reference_requests(self.plan, self.streams, self.needs, str(spec.method.retain))


def prepare(session: Session, encoder: Encoder) -> Work:
    """Build the method, encode the rows and draw the plan; needs a tokenizer and no model."""
    spec, bundle = session.spec, session.bundle
    method = catalog.build("method", spec.method.name, spec.method.options)
    needs = inspect_method(method, spec.method.name)
    if spec.method.retain != "none" and not bundle.retain:
        raise RunError(
            f"retain = {spec.method.retain!r} needs retain rows",
            where="[method].retain",
            hint='set data.retain, or method.retain = "none"',
        )
    splits = {"forget": encode_split(encoder, bundle.forget, "forget")}
    if spec.method.retain != "none":
        splits["retain"] = encode_split(encoder, bundle.retain, "retain")
    streams = {name: list(split.items) for name, split in splits.items()}
    plan = make_plan(
        forget=len(streams["forget"]),
        retain=len(streams.get("retain", ())),
        batch_size=spec.train.batch_size,
        seed=spec.seed,
        epochs=spec.train.epochs,
        steps=spec.train.steps,
    )
    alternates = None
    if needs.alternates:
        alternates = _alternates(session, encoder, plan, splits["forget"])
        streams["alternate"] = alternates.items
    return Work(method, needs, plan, streams, alternates, splits)


def _alternates(session: Session, encoder: Encoder, plan: Plan, forget: EncodedSplit) -> Alternates:
    rows = [forget.rows[k] for k in forget.row]
    choices = load_alternates(session.spec.data.alternates, rows, Path.cwd())

    def encode(row: int, answer: str) -> Encoded:
        encoded = encoder.encode(rows[row], answer=answer)
        if len(encoded) != 1 or rows[row].kind == "text":
            raise DataError(
                f"row {rows[row].id} cannot take the alternate answer {answer!r}",
                where="[data].alternates",
                hint="alternates need rows with a question or prompt, and answers with a token",
            )
        return encoded[0]

    return Alternates(plan, choices, encode)


def optimization(spec: Spec) -> Optimization:
    """`[train]`, as the trainer takes it."""
    train = spec.train
    return Optimization(
        train.learning_rate,
        train.schedule,
        train.warmup_epochs,
        train.weight_decay,
        train.max_grad_norm,
        train.micro_batch,
        train.activation_checkpointing,
    )


def check_reference_size(spec: Spec, requests: tuple[Request, ...], model: Any) -> int:
    """Bytes of the reference store; RunError where it would outgrow the limit of the spec."""
    hidden = model.get_output_embeddings().weight.shape[1]
    size = sum(request.bytes(hidden, model.dtype.itemsize) for request in requests)
    if size > spec.train.reference_limit_gib * GIB:
        raise RunError(
            f"the reference store would take {size / GIB:.1f} GiB",
            where="[train].reference_limit_gib",
            hint='raise the limit, or use retain = "nll"',
        )
    return size
