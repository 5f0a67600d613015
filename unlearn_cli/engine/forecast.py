"""What a run will take, before any model is loaded: bytes at their peak, and seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from unlearn_cli.engine import memory
from unlearn_cli.engine.encode import Encoder
from unlearn_cli.engine.estimate import Estimate, Ledger, estimate_step, imagine
from unlearn_cli.engine.evaluate import Evaluations
from unlearn_cli.engine.fit import fitting_rows, growth
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.layers import train_only
from unlearn_cli.engine.lazy import joined
from unlearn_cli.engine.lora import adapt
from unlearn_cli.engine.models import weight_dtype
from unlearn_cli.engine.objective import Term, nll_term, of_account
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.engine.quantized import rounded_away
from unlearn_cli.engine.reference import FrozenHead, ReferenceStore, Request
from unlearn_cli.engine.score import heaviest, look
from unlearn_cli.engine.session import Session
from unlearn_cli.engine.speed import measure
from unlearn_cli.engine.train import recompute_activations
from unlearn_cli.engine.work import Work, rows_at_once, smoothing
from unlearn_cli.spec.tables import Spec

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Forecast:
    """Of one run; bytes on the device that computes, of one process."""

    step: Estimate
    micro_batch: int
    """Rows in one forward pass."""
    evaluation: int
    """Bytes that an evaluation adds to the model, stress tests left out."""
    libraries: int
    """Bytes of Python and its libraries; 0 on an accelerator."""
    training: int
    """Bytes that training adds to the model, that of the target included."""
    reference: int
    """Bytes of the reference store on disk."""
    steps: int

    @property
    def peak(self) -> int:
        """Bytes at the peak of the run."""
        evaluating = self.step.optimizer + self.evaluation
        return self.libraries + self.step.weights + max(self.training, evaluating)

    def to_dict(self) -> dict[str, Any]:
        """For programs: `peak` too."""
        return asdict(self) | {"peak": self.peak}

    def lines(self) -> Iterator[str]:
        """For people."""
        step = self.step
        parts = {
            "weights": step.weights,
            "gradients": step.gradients,
            "optimizer": step.optimizer,
            "activations": step.activations,
            "logits": step.logits,
            "an evaluation": self.evaluation,
            "Python and its libraries": self.libraries,
        }
        told = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
        rows = f"micro-batches of {self.micro_batch} rows"
        yield f"memory: about {self.peak / GIB:.2f} GiB with {rows}; in MiB: {told}"
        yield f"disk: reference store {self.reference / MIB:,.1f} MiB"
        minutes = step.seconds * self.steps / 60
        yield f"time: about {step.seconds:.2g} s a step, {minutes:.2g} min without evaluations"


def forecast(session: Session, work: Work, skeleton: Any, encoder: Encoder) -> Forecast:
    """What a run will take, from a skeleton of its model.

    Raises:
        UnforeseenError: the method looks at values.
    """
    spec, device, accelerator = session.spec, session.device, session.accelerator
    dtype, half = weight_dtype(spec.model, device), spec.train.mixed_precision != "no"
    target = _fine_tuning(session, work, skeleton.to(dtype)) if spec.target.base else 0
    _prepare(session, work, skeleton)
    around: Any = {
        "optimizer": spec.train.optimizer,
        "copies": smoothed.copies if (smoothed := smoothing(spec)) else 0,
    }

    def start() -> tuple[Any, Sequence[Term]]:
        return _start(session, work, skeleton)

    rows = spec.train.micro_batch
    if rows == "auto":
        terms = _terms(work, spec, defaultdict(lambda: None))
        rows = fitting_rows(start, terms, work.streams, work.plan, accelerator, **around)
    speed = measure(device, torch.bfloat16 if half else dtype)
    step = estimate_step(
        start, work.streams, work.plan, accelerator, micro_batch=rows, speed=speed, **around
    )
    width = skeleton.get_output_embeddings().weight.shape[1]
    rounded = rounded_away(skeleton) if spec.lora.base == "nf4" else 0
    return Forecast(
        step=replace(step, weights=step.weights - rounded, peak=step.peak - rounded),
        micro_batch=rows,
        evaluation=_evaluation(session, skeleton, encoder),
        libraries=memory.used(device) if device.type == "cpu" else 0,
        training=max(growth(step, accelerator), target),
        reference=sum(r.bytes(width, dtype.itemsize) for r in work.requests(spec)),
        steps=len(work.plan.steps),
    )


def _fine_tuning(session: Session, work: Work, skeleton: Any) -> int:
    """Bytes that making the target adds to its base."""
    recipe, rows = session.spec.target, joined([split.items for split in work.splits.values()])
    plan = make_plan(forget=len(rows), retain=0, batch_size=recipe.batch_size, seed=0, epochs=1)
    found = estimate_step(
        lambda: (imagine(skeleton.train(), session.device), [nll_term("rows", 1.0)]),
        {"rows": rows},
        plan,
        session.accelerator,
        micro_batch=rows_at_once(session.spec),
        optimizer=recipe.optimizer,
    )
    return growth(found, session.accelerator)


def _terms(work: Work, spec: Spec, stores: Any) -> list[Term]:
    return of_account(work.terms(spec, stores), reweighed=hasattr(work.method, "weights"))


def _prepare(session: Session, work: Work, skeleton: Any) -> None:
    """Freeze what is not trained, put an adapter in, and recompute activations, as a run does."""
    spec = session.spec
    train_only(skeleton, work.choice.parameters)
    if spec.lora.rank:
        adapt(skeleton, work.choice.adapted, spec.lora, base="", seed=spec.seed)
    if spec.train.activation_checkpointing:
        recompute_activations(skeleton)


def _start(session: Session, work: Work, skeleton: Any) -> tuple[Any, Sequence[Term]]:
    """The model about to be trained, and the terms of its loss, all without data."""
    model = imagine(skeleton.train(), session.device)
    stores = {"reference": _Imagined(model, work.requests(session.spec))}
    if work.needs.reinforced:
        stores["reinforced"] = _Imagined(model, [work.reinforced_request()])
    return model, _terms(work, session.spec, stores)


class _Imagined(ReferenceStore):
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


def _evaluation(session: Session, skeleton: Any, encoder: Encoder) -> int:
    """Bytes that the heaviest batch of the evaluations adds to the model."""
    batch_size = {table.evaluator: table.batch_size for table in session.spec.evaluate}
    found = [0]
    for name, metrics, probes in Evaluations(session).of_rows():
        if any("gradient" in metrics.needs(set_) for set_ in metrics.names):
            found.append(sum(parameter.nbytes for parameter in skeleton.parameters()))
        most = heaviest(encoder, probes, batch_size[name], metrics.needs)
        for items, spread in most.scored:
            ledger = Ledger()
            with FakeTensorMode(allow_non_fake_inputs=True), ledger, torch.no_grad():
                model = imagine(skeleton.eval(), session.device)
                weights = ledger.alive
                look(Scorer(model), items, spread=spread)
            found.append(ledger.peak - weights)
        found += [rows * length * _cache_bytes(skeleton) for rows, length in most.generated]
    return max(found)


def _cache_bytes(model: Any) -> int:
    """Keys and values of a token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
