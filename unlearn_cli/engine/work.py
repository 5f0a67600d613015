"""What a method is going to do, known before any model is loaded: its plan and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from unlearn_cli import catalog
from unlearn_cli.api.data import Row
from unlearn_cli.engine import quantized
from unlearn_cli.engine.data import load_alternates
from unlearn_cli.engine.encode import Encoded, Encoder, asked
from unlearn_cli.engine.gradients import Smoothing
from unlearn_cli.engine.layers import deepest, find_layers, find_parameters
from unlearn_cli.engine.lazy import Lazy
from unlearn_cli.engine.lora import check_installed, find_adapted
from unlearn_cli.engine.method import Needs, inspect_method
from unlearn_cli.engine.objective import (
    Alternates,
    Stores,
    Term,
    all_terms,
    drawn,
    entropy_term,
    reference_requests,
)
from unlearn_cli.engine.plan import Plan, make_plan
from unlearn_cli.engine.reference import Request
from unlearn_cli.engine.rows import KeptRows, batches
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.sharding import shape
from unlearn_cli.engine.tokens import EncodedSplit, encode, in_arrays, keep_tokens
from unlearn_cli.engine.train import Optimization
from unlearn_cli.errors import DataError, RunError, UsageError
from unlearn_cli.spec.sense import alternates_problem, retain_problem
from unlearn_cli.spec.tables import Spec

GIB = 2**30
ANSWERS = "retain answers"
"""The stream of retain rows with loss on answers, where `retain` has it on all tokens."""


@dataclass(frozen=True)
class Work:
    """What a method is going to do: its plan, and every row that the plan draws, encoded."""

    method: Any
    needs: Needs
    plan: Plan
    streams: Mapping[str, Sequence[Encoded]]
    alternates: Alternates | None
    splits: Mapping[str, EncodedSplit]
    choice: Choice

    def terms(self, spec: Spec, stores: Stores) -> list[Term]:
        """The terms of the loss."""
        options = spec.method
        terms = all_terms(
            self.method,
            self.needs,
            float(options.gamma or 0),
            float(options.alpha or 0),
            str(options.retain),
            self.alternates,
            stores,
            self.choice.layers,
        )
        for stream, weight in _entropies(spec).items():
            own = ANSWERS in self.streams and stream == "retain"
            terms.append(entropy_term(stream, weight, ANSWERS if own else stream))
        return terms

    def requests(self, spec: Spec) -> tuple[Request, ...]:
        """What the reference pass must see."""
        return reference_requests(
            self.plan, self.streams, self.needs, str(spec.method.retain), self.choice.layers
        )

    def reinforced_request(self) -> Request:
        """What the reinforced model must see."""
        rows = drawn(self.plan, "forget")
        return Request("forget", self.streams["forget"], rows, self.needs.reference_logits)


def _entropies(spec: Spec) -> dict[str, float]:
    """The entropies that the spec weighs: stream -> weight."""
    found = {"forget": spec.wrap.entropy_forget, "retain": spec.wrap.entropy_retain}
    return {stream: weight for stream, weight in found.items() if weight}


@dataclass(frozen=True)
class Choice:
    """What the patterns of the spec mean in the model."""

    layers: Mapping[str, str]
    """Pattern -> name of the block whose activations the method reads."""
    parameters: tuple[str, ...]
    """Names of the parameters that are trained, or, with `[lora]`, of those that it stands for."""
    adapted: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter."""


def choose(spec: Spec, model: Any) -> Choice:
    """Look the patterns up in a model, or in its skeleton.

    Raises UsageError where a pattern means nothing there, or several blocks, or parameters that
    the loss does not depend on.
    """
    method, needs = build_method(spec)
    layers = find_layers(model, needs.layers)
    retains = spec.method.retain in ("nll", "kl") and (
        spec.method.alpha or hasattr(method, "weights")
    )
    whole = not layers or retains or _entropies(spec)  # these read what the model says
    last = None if whole else deepest(layers)
    parameters = tuple(find_parameters(model, spec.method.parameters or ("*",), last))
    adapted = find_adapted(model, parameters, spec.lora) if spec.lora.rank else []
    return Choice(layers, parameters, tuple(adapted))


def build_method(spec: Spec) -> tuple[Any, Needs]:
    """The method that the spec names, and what it needs. Raises UsageError for a retain term that
    makes no sense with it."""
    method = catalog.build("method", spec.method.name, spec.method.options)
    needs = inspect_method(method, spec.method.name)
    name, options = spec.method.name, spec.method
    retains = getattr(method, "retains", ())
    if found := retain_problem(name, options.retain, bool(needs.layers), retains):
        raise UsageError(found[0], where="[method].retain", hint=found[1])
    own = getattr(method, "own_alternates", False)
    if found := alternates_problem(name, own, spec.data.alternates):
        raise UsageError(found[0], where="[data].alternates", hint=found[1])
    if hasattr(method, "edit") and spec.checkpoints.best:
        raise UsageError(
            f"method {spec.method.name!r} makes its model after training: no checkpoint holds it",
            where="[checkpoints].best",
            hint="leave it out",
        )
    quantized.check(spec)
    if spec.lora.rank:
        _check_lora(spec, method)
    return method, needs


def _check_lora(spec: Spec, method: Any) -> None:
    """Raise UsageError where `[lora]` cannot be."""
    check_installed("[lora]")
    in_code = not spec.target.base and str(spec.model.path).startswith("builtin:")
    if in_code and spec.lora.base == "nf4":
        raise UsageError(
            "a model that is made in code cannot be loaded in 4 bits",
            where="[lora].base",
            hint="name it as target.base, or leave lora.base out",
        )
    if spec.lora.merge:
        return
    if hasattr(method, "edit"):
        reason = f"method {spec.method.name!r} makes its model of the trained weights"
    elif in_code:
        reason = "the model is made in code: an adapter of it could not be loaded"
    else:
        return
    raise UsageError(reason, where="[lora].merge", hint="set lora.merge = true")


Ask = Callable[[Sequence[Row]], Sequence[Sequence[str]]]
"""Forget rows -> for each, the alternate answers that the model makes."""


def prepare(session: Session, encoder: Encoder, model: Any, ask: Ask) -> Work:
    """Build the method, encode the rows and draw the plan.

    Of the model it needs the skeleton; `ask` is called where the model makes the alternates.
    """
    spec, bundle = session.spec, session.bundle
    method, needs = build_method(spec)
    retains = spec.method.retain != "none" or "retain" in _entropies(spec)
    if retains and not bundle.retain:
        raise RunError(
            f"retain = {spec.method.retain!r} needs retain rows",
            where="[method].retain",
            hint='set data.retain, or method.retain = "none"',
        )
    splits = {"forget": encode(session, encoder, bundle.forget, "forget")}
    if retains:
        splits["retain"] = encode(session, encoder, bundle.retain, "retain")
    streams: dict[str, Sequence[Encoded]] = {name: split.items for name, split in splits.items()}
    if spec.method.retain == "kl" and spec.method.kl_positions == "all":
        streams["retain"] = splits["retain"].items.whole()
        if "retain" in _entropies(spec):  # whose answers are meant, wherever the divergence is
            streams[ANSWERS] = splits["retain"].items
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
        alternates = _alternates(session, encoder, plan, splits["forget"], ask)
        streams["alternate"] = alternates.items
    return Work(method, needs, plan, streams, alternates, splits, choose(spec, model))


def _alternates(
    session: Session, encoder: Encoder, plan: Plan, forget: EncodedSplit, ask: Ask
) -> Alternates:
    rows = Lazy(forget.row, forget.rows.__getitem__)
    setting = session.spec.data.alternates
    choices = ask(rows) if setting == "model" else load_alternates(setting, rows, Path.cwd())

    def encode_pairs(pairs: Sequence[tuple[int, str]]) -> Sequence[Encoded]:
        parts = _encoded_alternates(encoder, rows, pairs)
        if not isinstance(forget.rows, KeptRows):
            return in_arrays([*chain(*parts)])[0]
        answers = choices if setting == "model" else choices[0]  # else the rows have them, or all
        draws = (session.spec.seed, session.spec.train.batch_size, len(plan.steps))
        decisive = (encoder.fingerprint, forget.rows.fingerprint, answers, draws)
        return keep_tokens(session, decisive, "alternates", len(pairs), parts)[0]

    return Alternates(plan, choices, encode_pairs)


def _encoded_alternates(
    encoder: Encoder, rows: Sequence[Row], pairs: Sequence[tuple[int, str]]
) -> Iterator[list[list[Encoded]]]:
    """Forget rows with other answers, some at a time."""
    with_them = Lazy(range(len(pairs)), lambda k: asked(rows[pairs[k][0]], pairs[k][1]))
    for part in batches(with_them):
        encoded = encoder.encode_many(part)
        for row, items in zip(part, encoded, strict=True):
            if len(items) != 1 or row.kind == "text":
                raise DataError(
                    f"row {row.id} cannot take the alternate answer {row.answer!r}",
                    where="[data].alternates",
                    hint="alternates need rows with a question or prompt, and answers with a token",
                )
        yield encoded


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
        train.optimizer,
    )


def rows_at_once(spec: Spec) -> int:
    """Rows in one forward pass where no optimizer has made its state yet."""
    rows = spec.train.micro_batch
    return rows if rows != "auto" else 8


def smoothing(spec: Spec) -> Smoothing | None:
    """`[wrap]`, as the trainer takes it."""
    wrap = spec.wrap
    if wrap.sam_rho is None and wrap.noise_sigma is None:
        return None
    return Smoothing(wrap.sam_rho, wrap.noise_sigma, wrap.noise_samples, spec.seed)


def check_reference_size(spec: Spec, requests: tuple[Request, ...], model: Any) -> int:
    """Bytes of the reference store; RunError where it would outgrow the limit of the spec."""
    hidden = shape(model.get_output_embeddings().weight)[1]
    size = sum(request.bytes(hidden, model.dtype.itemsize) for request in requests)
    if size > spec.train.reference_limit_gib * GIB:
        raise RunError(
            f"the reference store would take {size / GIB:.1f} GiB",
            where="[train].reference_limit_gib",
            hint='raise the limit, or use retain = "nll"',
        )
    return size
