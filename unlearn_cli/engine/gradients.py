"""Gradients of terms over a global batch: micro-batches, processes, and points near the weights.

A loss is a sum over the global batch divided by its global counts, so micro-batches and processes
only decide who computes which summand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearn_cli.engine.encode import Encoded
from unlearn_cli.engine.forward import split
from unlearn_cli.engine.memory import compact, give_back_holes
from unlearn_cli.engine.objective import Rows, Streams, Term
from unlearn_cli.engine.plan import Step
from unlearn_cli.engine.sharding import part, shape, spread, whole
from unlearn_cli.engine.update import Backward

Losses = dict[str, Tensor]
"""Term -> scalar, on the device: reading it as a number would wait for the device."""


def sum_type(device: torch.device) -> torch.dtype:
    """In which sums over micro-batches and processes are taken; `mps` has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Smoothing:
    """Where the gradient of the forget term is taken, instead of at the weights themselves."""

    sam_rho: float | None = None
    """At the weights moved by this length along the gradient of the forget term."""
    noise_sigma: float | None = None
    """At weights with Gaussian noise of this standard deviation, mean of `noise_samples`."""
    noise_samples: int = 1
    seed: int = 0
    """Of the noise."""

    @property
    def passes(self) -> int:
        """Times that the forget term goes through the model in a step."""
        return 2 if self.sam_rho is not None else self.noise_samples


class Gradients:
    """Adds the gradients of terms to the parameters of a model."""

    def __init__(
        self,
        accelerator: Accelerator,
        scorer: nn.Module,
        streams: Streams,
        *,
        micro_batch: int,
        into: Backward | None = None,
    ) -> None:
        """`scorer` is a `Scorer`, prepared by accelerate where there are several processes; without
        `into`, gradients go into `.grad`."""
        self.accelerator, self.scorer, self.streams = accelerator, scorer, streams
        self.micro_batch, self.into = micro_batch, into or Backward(accelerator, scorer)

    def add(
        self, terms: Sequence[Term], weights: Mapping[str, float], step: Step, *, sync: bool = True
    ) -> tuple[Losses, int]:
        """Add the gradients of weighted terms over the batch of a step.

        Args:
            terms: which.
            weights: of each term, by its name.
            step: the rows.
            sync: whether the processes add up their gradients, those of earlier calls included. Of
                a sharded model they always do.

        Returns:
            This process's part of each term's unweighted mean, and the tokens that it ran.
        """
        device = self.accelerator.device
        zero = torch.zeros((), dtype=sum_type(device), device=device)
        sums, tokens = {term.name: zero for term in terms}, 0
        work = self.parts(terms, step)
        for number, taken in enumerate(work):
            if number:
                give_back_holes(device)
            with self.into.passing(last=sync and number == len(work) - 1):
                values = self.backward(taken, weights)
            for name, value in values.items():
                sums[name] = sums[name] + value
            tokens += taken.tokens if taken.counts else 0
        return sums, tokens

    def parts(self, terms: Sequence[Term], step: Step) -> list[Part]:
        """This process's micro-batches of a step.

        Rows of similar length go together. Every process has the same number of parts, because
        their collective operations must match; one without rows repeats a row and drops it.
        """
        drawn = [(term, term.rows(step)) for term in terms]
        shares = [Share(term, rows, term.count(self.streams, rows)) for term, rows in drawn]
        return [part for group in _together(shares) for part in self._parts(group)]

    def _parts(self, shares: Sequence[Share]) -> Iterator[Part]:
        examples = [(share, k) for share in shares for k in range(share.examples)]
        order = sorted(examples, key=lambda one: self._length(one[0].rows, one[1]))
        processes, me = self.accelerator.num_processes, self.accelerator.process_index
        for start in range(0, math.ceil(len(order) / processes), self.micro_batch):
            mine = order[me::processes][start : start + self.micro_batch]
            chosen = mine or order[:1]
            taken = {id(share): [k for of, k in chosen if of is share] for share in shares}
            present = [share.only(taken[id(share)]) for share in shares if taken[id(share)]]
            yield Part(present, self._groups(present), counts=bool(mine))

    def _groups(self, shares: Sequence[Share]) -> list[list[Encoded]]:
        streams = (pair for share in shares for pair in share.rows.items())
        return [[self.streams[name][row] for row in indices] for name, indices in streams]

    def _length(self, rows: Rows, k: int) -> int:
        return max(len(self.streams[name][indices[k]].input_ids) for name, indices in rows.items())

    def backward(self, part: Part, weights: Mapping[str, float]) -> Losses:
        """Add the gradients of one forward pass; what each term is there."""
        items = [item for group in part.groups for item in group]
        with self.accelerator.autocast():  # accelerate wraps no sharded model in it
            seen = self.scorer(items, part.layers)
        found = iter(split(seen, part.groups))
        values = {}
        for share in part.shares:
            said = {name: next(found) for name in share.rows}
            scale = 1 / share.count if part.counts else 0.0
            values[share.term.name] = share.term.values(said, share.rows).sum() * scale
        total = sum(weights[name] * value for name, value in values.items())
        # Processes average their gradients; the loss is a sum over them.
        self.into.backward(self.accelerator.num_processes * total)
        return {name: value.detach() for name, value in values.items()}


@dataclass(frozen=True)
class Share:
    """A term, and those of its rows that are meant."""

    term: Term
    rows: Rows
    count: int
    """By what the sum of values over the whole step is divided."""

    @property
    def examples(self) -> int:
        """Rows, or tuples of rows where the term reads several streams."""
        return len(self.rows[self.term.counted])

    def only(self, chosen: Sequence[int]) -> Share:
        """The same of some of the examples."""
        rows = {name: [indices[k] for k in chosen] for name, indices in self.rows.items()}
        return replace(self, rows=rows)


@dataclass(frozen=True)
class Part:
    """What one process takes through the model at once."""

    shares: Sequence[Share]
    groups: Sequence[Sequence[Encoded]]
    """Its rows, of each term and each of its streams."""
    counts: bool
    """Whether it is of account."""

    @property
    def layers(self) -> Mapping[str, str]:
        """The blocks that are read, where activations are."""
        return self.shares[0].term.layers

    @property
    def tokens(self) -> int:
        """Of all its rows."""
        return sum(len(item.input_ids) for group in self.groups for item in group)


def _together(shares: Sequence[Share]) -> list[list[Share]]:
    """Terms in groups that one forward pass serves: of scores, or of the same activations."""
    groups: dict[tuple[tuple[str, str], ...], list[Share]] = {}
    for share in shares:
        groups.setdefault(tuple(share.term.layers.items()), []).append(share)
    return list(groups.values())


def add_step(
    gradients: Gradients,
    smoothing: Smoothing | None,
    parameters: Sequence[nn.Parameter],
    terms: Sequence[Term],
    weights: Mapping[str, float],
    step: Step,
    number: int,
) -> tuple[Losses, int]:
    """As `Gradients.add`; with `smoothing`, the gradient of the first term, the forget term, is
    taken nearby.

    Source: Fan et al., Towards LLM Unlearning Resilient to Relearning Attacks, ICML 2025,
    arXiv:2502.05374: sharpness-aware minimisation and randomised smoothing of the forget loss. The
    reported forget loss is that at the weights themselves for the former, the mean of those with
    noise for the latter. Differences from the official code: 1. the whole batch decides one
    direction, so it goes with gradient accumulation; there each micro-batch has its own. 2. Weights
    are restored from a copy, to the bit.

    Args:
        gradients: of the model.
        smoothing: where to take it.
        parameters: those that are trained; their gradients are empty.
        terms: the forget term first.
        weights: of the terms.
        step: the rows.
        number: steps done, which decides the noise.
    """
    if smoothing is None:
        return gradients.add(terms, weights, step)
    forget, *others = terms
    alone = not others
    if smoothing.sam_rho is not None:
        # Not synchronised as in a last pass: the forget term may not reach every parameter.
        sums, tokens = gradients.add([forget], weights, step, sync=False)
        with shifted(parameters, _uphill(gradients.into, parameters, smoothing.sam_rho)):
            _, again = gradients.add([forget], weights, step, sync=alone)
        tokens += again
    else:
        sums, tokens = {}, 0
        part = {forget.name: weights[forget.name] / smoothing.noise_samples}
        for sample in range(smoothing.noise_samples):
            last = sample == smoothing.noise_samples - 1
            with shifted(parameters, _noise(parameters, smoothing, number, sample)):
                found, ran = gradients.add([forget], part, step, sync=alone and last)
            mean = found[forget.name] / smoothing.noise_samples
            sums[forget.name] = sums.get(forget.name, 0) + mean
            tokens += ran
    if others:
        found, ran = gradients.add(others, weights, step)
        sums, tokens = sums | found, tokens + ran
    return sums, tokens


@contextmanager
@torch.no_grad()
def shifted(parameters: Sequence[nn.Parameter], shift: Iterable[Tensor]) -> Iterator[None]:
    """Within, the parameters are moved; afterwards they have the bits that they had."""
    kept = [part(parameter).clone() for parameter in parameters]
    _move(parameters, shift)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, before in zip(parameters, kept, strict=True):
            part(parameter).copy_(before)


def _move(parameters: Sequence[nn.Parameter], shift: Iterable[Tensor]) -> None:
    for parameter, by in zip(parameters, shift, strict=True):
        part(parameter).add_(part(by))


def _uphill(into: Backward, parameters: Sequence[nn.Parameter], length: float) -> Iterator[Tensor]:
    """The gradients of all processes, all together scaled to a length. They are taken away from the
    parameters, and are gone one by one: they are as large as what is trained."""
    found = [into.summed(_gradient(parameter)) for parameter in parameters]
    _empty(parameters)
    norm = torch.stack([whole(gradient.norm()) for gradient in found]).norm()
    scale = length / norm.clamp_min(1e-12)
    return (found.pop(0).mul_(scale) for _ in parameters)


def _noise(
    parameters: Sequence[nn.Parameter], smoothing: Smoothing, number: int, sample: int
) -> Iterator[Tensor]:
    """Drawn on the CPU, so that every device and process has the same."""
    seed = hash((smoothing.seed, number, sample)) % 2**63
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        drawn = torch.randn(shape(parameter), generator=generator)
        noise = (drawn * float(smoothing.noise_sigma or 0)).to(parameter.dtype)
        yield spread(noise, parameter).to(parameter.device)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _empty(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


@compact()
def salient(
    gradients: Gradients, term: Term, steps: Sequence[Step], model: nn.Module, share: float
) -> list[str]:
    """Names of the share of trained parameter tensors that the forget term pulls most.

    By the root mean square of a tensor's gradient, summed over `steps`, before the first update.

    Source: the saliency mask of SURE, Zhang et al., ICLR 2025, arXiv:2410.16454. Differences from
    the official code: 1. whole tensors; there also single neurons. 2. Root mean square; there the
    norm, by which large tensors win.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for step in steps:
        gradients.add([term], {term.name: 1.0}, step, sync=False)
    pull = {
        name: whole(gradients.into.summed(_gradient(parameter)).square_().mean()).item()
        for name, parameter in trained.items()
    }
    _empty(list(trained.values()))
    chosen = set(sorted(pull, key=lambda name: -pull[name])[: share_of(trained, share)])
    return [name for name in trained if name in chosen]


def share_of(parameters: Collection[str], share: float) -> int:
    """How many tensors a share of them is."""
    return max(1, round(share * len(parameters)))
