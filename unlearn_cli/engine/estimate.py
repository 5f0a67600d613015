"""What a step takes, found without taking it: bytes at their peak, and operations.

The model and the terms of its loss run once on tensors that have shapes and no data
(torch's fake tensors), while a ledger follows which of them are alive. So every architecture,
method and setting is counted by what it would allocate, and by no formula for one of them.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.gradients import Gradients, Losses, Part, Smoothing, add_step
from unlearn_cli.engine.objective import Streams, Term
from unlearn_cli.engine.optimizers import state_bytes
from unlearn_cli.engine.pack import assume
from unlearn_cli.engine.plan import Plan, Step
from unlearn_cli.engine.quantized import plain_shapes
from unlearn_cli.engine.speed import Speed
from unlearn_cli.engine.update import Backward
from unlearn_cli.errors import RunError

T = TypeVar("T")
CPU = torch.device("cpu")
LOOKED_AT = 256
"""Steps of a plan that stand for all."""


class UnforeseenError(RunError):
    """No estimate can be made."""


@dataclass(frozen=True)
class Estimate:
    """Of one training step; all but `seconds` and `tokens` are bytes."""

    weights: int
    """Of the model, and of the frozen output layer where a reference needs one."""
    gradients: int
    optimizer: int
    """State of the optimizer."""
    activations: int
    """Kept for the backward pass when the output layer begins, of the largest micro-batch."""
    logits: int
    """What the output layer and the loss need at their peak besides."""
    smoothing: int
    """The copy of what is trained, that sharpness or noise is taken away with."""
    peak: int
    """Of everything together, which is less than the sum where not all is alive at once."""
    seconds: float
    """Of a step of average length; 0 where no speed is given."""
    tokens: float
    """That go through the model in such a step, on all processes."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of tensors that are made within, on one kind of device, and the seconds that
    making them takes."""

    def __init__(self, device: torch.device = CPU, speed: Speed | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.speed, self.seconds = device, speed, 0.0
        self.alive = self.peak = 0
        self._sizes: dict[int, int] = {}

    def note(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, for as long as it lives."""
        if tensor.device.type != self.device.type:
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)

    def peak_of(self, run: Callable[[], T]) -> tuple[T, int]:
        """What a function returns, and the most bytes that were alive while it ran."""
        before, self.peak = self.peak, self.alive
        result, peak = run(), self.peak
        self.peak = max(before, peak)
        return result, peak

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tree_map_only(Tensor, self.note, result)
        if self.speed is not None and not func.is_view:
            count = flop_registry.get(func.overloadpacket)
            operations = count(*args, **kwargs, out_val=result) if count else 0
            tensors = (x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor))
            self.seconds += self.speed.seconds(operations, sum(x.nbytes for x in tensors))
        return result


def imagine(model: Any, device: torch.device) -> Any:
    """A copy of a model, or of its skeleton, without data; to be called on fake tensors.

    Args:
        model: whose shapes, and what is trained of it, are taken over.
        device: on which the copy would be.
    """

    def shape_of(tensor: Tensor) -> Tensor:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made

    tensors = [*model.parameters(), *model.buffers()]
    shapes = {id(tensor): shape_of(tensor) for tensor in tensors}
    made = copy.deepcopy(model, {**shapes, **plain_shapes(model)})
    assume(made, like=model)
    return made


def estimate_step(
    make: Callable[[], tuple[Any, Sequence[Term]]],
    streams: Streams,
    plan: Plan,
    accelerator: Accelerator,
    *,
    micro_batch: int,
    optimizer: str | None,
    smoothing: Smoothing | None = None,
    speed: Speed | None = None,
) -> Estimate:
    """What a step takes.

    Args:
        make: a model by `imagine`, of which what is trained requires gradients, and the terms of
            its loss; each of these counts with weight 1. It is called on fake tensors.
        streams: where the terms' rows are.
        plan: the steps; the heaviest of the first is taken.
        accelerator: whose precision and share of the rows is taken.
        micro_batch: rows in one forward pass.
        optimizer: its name in the spec; None where gradients are looked at and no step is taken.
        smoothing: where the gradient of the first term is taken.
        speed: of the device, where the time is wanted.

    Raises:
        UnforeseenError: the method, or the model, looks at values, which are not there.
    """
    with counting(accelerator.device, speed) as ledger:
        model, terms = make()
        lengths = _lengths(plan, terms, streams, smoothing)
        step = plan.steps[lengths.index(max(lengths))]
        trained = [p for p in model.parameters() if p.requires_grad]
        weights, ledger.seconds = ledger.alive, 0.0
        work = _Heaviest(ledger, trained, accelerator, Scorer(model), streams, micro_batch)
        ones = dict.fromkeys((term.name for term in terms), 1.0)
        add_step(work, smoothing, trained, terms, ones, step, 0)
    state = sum(state_bytes(p, optimizer) for p in trained) if optimizer else 0
    gradients = sum(p.nbytes for p in trained)
    # It reads gradients, and reads and writes weights and state.
    update = speed.seconds(0, 3 * gradients + 2 * state) if speed and optimizer else 0.0
    average = sum(lengths) / len(lengths)
    passing = work.seconds * work.share / work.ran * average / max(lengths)
    return Estimate(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=work.activations,
        logits=work.logits,
        smoothing=gradients if smoothing else 0,
        peak=ledger.peak + state,
        seconds=passing + ledger.seconds - work.seconds + update,
        tokens=average,
    )


class _Heaviest(Gradients):
    """Takes, of the micro-batches of a step that read the same, the one with the most tokens."""

    def __init__(
        self,
        ledger: Ledger,
        trained: Sequence[nn.Parameter],
        accelerator: Accelerator,
        scorer: Scorer,
        streams: Streams,
        micro_batch: int,
    ) -> None:
        into = _Alone(accelerator, scorer)
        super().__init__(accelerator, scorer, streams, micro_batch=micro_batch, into=into)
        self.ledger, self.trained = ledger, trained
        self.head: Any = scorer.model.get_output_embeddings()
        self.activations = self.logits = 0
        self.seconds = 0.0
        """Of the passes that were taken."""
        self.ran = self.share = 0
        """Tokens of these, and of all that this process has."""

    def parts(self, terms: Sequence[Term], step: Step) -> list[Part]:
        """Those with the most tokens."""
        found: dict[tuple[tuple[str, str], ...], Part] = {}
        every = super().parts(terms, step)
        for part in sorted(every, key=lambda part: part.tokens):
            found[tuple(part.layers.items())] = part
        if len(every) > 1:  # then they are there while a later part makes its activations
            for parameter in self.trained:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
        self.share += sum(part.tokens for part in every)
        self.ran += sum(part.tokens for part in found.values())
        return list(found.values())

    def backward(self, part: Part, weights: Mapping[str, float]) -> Losses:
        """As elsewhere, and note what it takes."""
        before, began, entered = self.ledger.alive, self.ledger.seconds, list[int]()
        run = partial(super().backward, part, weights)
        with self.head.register_forward_pre_hook(lambda *_: entered.append(self.ledger.alive)):
            losses, peak = self.ledger.peak_of(run)
        at_head = max(entered, default=peak)
        self.activations = max(self.activations, at_head - before)
        self.logits = max(self.logits, peak - at_head)
        self.seconds += self.ledger.seconds - began
        return losses


class _Alone(Backward):
    """Of a process that does not hear of the others."""

    def passing(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def summed(self, gradient: Tensor) -> Tensor:
        return gradient.clone()


@contextmanager
def counting(device: torch.device, speed: Speed | None = None) -> Iterator[Ledger]:
    """Within, tensors have no data, and a ledger counts what they would take of a device.

    Raises:
        UnforeseenError: what runs within looks at values, which are not there.
    """
    ledger = Ledger(device, speed)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), ledger:
            yield ledger
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnforeseenError(
            f"what a step takes cannot be known before: it depends on values ({error})",
            where="[method]",
            hint="set train.micro_batch to a number",
        ) from None


def heaviest_step(plan: Plan, terms: Sequence[Term], streams: Streams) -> Step:
    """Of the first steps, the one with the most tokens."""
    lengths = _lengths(plan, terms, streams)
    return plan.steps[lengths.index(max(lengths))]


def _lengths(
    plan: Plan, terms: Sequence[Term], streams: Streams, smoothing: Smoothing | None = None
) -> list[int]:
    """Tokens that go through the model in each of the first steps."""
    forget, *others = terms
    passes = [forget] * (smoothing.passes if smoothing else 1) + others

    def tokens(step: Step) -> int:
        drawn = (pair for term in passes for pair in term.rows(step).items())
        return sum(len(streams[name][row].input_ids) for name, rows in drawn for row in rows)

    return [tokens(step) for step in islice(plan.steps, LOOKED_AT)]
