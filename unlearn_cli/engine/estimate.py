"""What a step takes, found without taking it: bytes at their peak, and operations.

The model and the terms of its loss run once on tensors that have shapes and no data
(torch's fake tensors), while a ledger follows which of them are alive. So every architecture,
method and setting is counted by what it would allocate, and by no formula for one of them.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

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
from unlearn_cli.engine.gradients import Gradients, Part
from unlearn_cli.engine.objective import Streams, Term
from unlearn_cli.engine.optimizers import state_bytes
from unlearn_cli.engine.pack import assume
from unlearn_cli.engine.plan import Plan, Step
from unlearn_cli.engine.quantized import plain_shapes
from unlearn_cli.engine.speed import Speed
from unlearn_cli.errors import RunError

LOOKED_AT = 256
"""Steps of a plan that stand for all."""


class UnforeseenError(RunError):
    """No estimate can be made."""


@dataclass(frozen=True)
class Estimate:
    """Of one training step; all but `seconds` are bytes."""

    weights: int
    """Of the model, and of the frozen output layer where a reference needs one."""
    gradients: int
    optimizer: int
    """State of the optimizer."""
    activations: int
    """Kept for the backward pass when the output layer begins, of the largest micro-batch."""
    logits: int
    """What the output layer and the loss need at their peak besides."""
    peak: int
    """Of everything together, which is less than the sum where not all is alive at once."""
    seconds: float
    """Of a step of average length; 0 where no speed is given."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the bytes of tensors that are made within, and the seconds that making them takes."""

    def __init__(self, speed: Speed | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.speed, self.seconds = speed, 0.0
        self.alive = self.peak = 0
        self._sizes: dict[int, int] = {}

    def note(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once, for as long as it lives."""
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
    optimizer: str,
    copies: int = 0,
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
        optimizer: its name in the spec.
        copies: of what is trained, that are kept around the passes.
        speed: of the device, where the time is wanted.

    Raises:
        UnforeseenError: the method, or the model, looks at values, which are not there.
    """
    ledger = Ledger(speed)
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        model, terms = make()
        work = Gradients(accelerator, Scorer(model), streams, micro_batch=micro_batch)
        lengths = _lengths(plan, terms, streams)
        parts = work.parts(terms, plan.steps[lengths.index(max(lengths))])
        heaviest = _heaviest(parts, streams)
        trained = [p for p in model.parameters() if p.requires_grad]
        weights, entered = ledger.alive, list[int]()
        if len(parts) > 1:  # then they are there while a later part makes its activations
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        before = ledger.alive
        head = model.get_output_embeddings()
        ledger.seconds = 0.0
        ones = dict.fromkeys((term.name for term in terms), 1.0)
        with (
            head.register_forward_pre_hook(lambda *_: entered.append(ledger.alive)),
            _valueless(),
            accelerator.autocast(),
        ):
            for part in heaviest:
                work.backward(part, ones)
    state = sum(state_bytes(p, optimizer) for p in trained)
    gradients = sum(p.nbytes for p in trained)
    # It reads gradients, and reads and writes weights and state.
    update = speed.seconds(0, 3 * gradients + 2 * state) if speed else 0.0
    tokens = sum(part.tokens(streams) for part in heaviest)
    a_step = sum(lengths) / len(lengths) / accelerator.num_processes
    at_head = max(entered, default=ledger.peak)
    return Estimate(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=at_head - before,
        logits=ledger.peak - at_head,
        peak=ledger.peak + state + copies * gradients,
        seconds=ledger.seconds / tokens * a_step + update,
    )


@contextmanager
def _valueless() -> Iterator[None]:
    try:
        yield
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


def _lengths(plan: Plan, terms: Sequence[Term], streams: Streams) -> list[int]:
    """Tokens of each of the first steps."""

    def tokens(step: Step) -> int:
        drawn = (pair for term in terms for pair in term.rows(step).items())
        return sum(len(streams[name][row].input_ids) for name, rows in drawn for row in rows)

    return [tokens(step) for step in islice(plan.steps, LOOKED_AT)]


def _heaviest(parts: Sequence[Part], streams: Streams) -> list[Part]:
    """Of the parts that read the same, the one with the most tokens."""
    found: dict[tuple[tuple[str, str], ...], Part] = {}
    for part in sorted(parts, key=lambda part: part.tokens(streams)):
        found[tuple(part.layers.items())] = part
    return list(found.values())
