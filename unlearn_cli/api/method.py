"""The contract of an unlearning method.

A method is a frozen dataclass whose fields are its hyper-parameters, with one function
`forget_loss`. Its parameter names are its requirements; what is not named is not computed:

    forget               Scores of the forget answers under the model in training
    reference            Scores of the same answers under the model before its first update
    alternate            Scores of the alternate answers to the same questions
    alternate_reference  the same under the model before its first update
    reinforced           Scores of the forget answers under the model after it learned the forget
                         rows once more (`[reinforce]`)
    hidden               Hidden of the forget rows: activations of the blocks that `layers` names
    reference_hidden     the same of the model before its first update

It returns one value per example, shape (B,), or per answer token, shape (N,), in nats, never a
mean: the engine divides the sum over the global batch by the global count of examples or tokens.
The tokens are those of the forget answers, or of the alternates where no forget answer is named.
On activations it may also return one value per token, shape (P,), prompts included.

What else a method may have:

    layers     property, patterns of the blocks whose activations it reads (`"*.layers.7"`); no
               block behind the last of them runs
    retains    class attribute, the retain terms that make sense with it; without it, all
    weights    `weights(progress) -> Weights`: gamma and alpha of the next step; called before the
               first step and after every one
    edit       `edit(before, after) -> Tensor`: what becomes of each trained parameter when
               training is over; all in float32
The total loss of a step is `gamma * forget term + alpha * retain term`.

Whoever annotates the fields with `Annotated[float, Gt(0)]` and the like gets every spec checked
against the range, and the range printed by `unlearn show`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

RetainTerm = Literal["none", "nll", "kl", "hidden", "hidden_norm"]
"""The retain term, as in `MethodDefaults.retain`."""


@dataclass(frozen=True)
class MethodDefaults:
    """Defaults of the options that every method shares.

    Set as the class attribute `defaults: ClassVar[MethodDefaults] = MethodDefaults(...)` with
    literal arguments: they are read without importing the module.
    """

    gamma: float = 1.0
    """Weight of the forget term."""
    alpha: float = 1.0
    """Weight of the retain term."""
    retain: RetainTerm = "nll"
    """The retain term: `none`, `nll` (token mean), `kl` (to the reference, at answer tokens), or,
    where the method reads activations, their distance to the reference's: `hidden` (mean square)
    or `hidden_norm` (Euclidean)."""
    parameters: tuple[str, ...] = ("*",)
    """Patterns of the names of the parameters that are trained."""


@dataclass(frozen=True)
class Weights:
    """The weights of the two terms."""

    gamma: float
    alpha: float


@dataclass(frozen=True)
class Progress:
    """Where a training stands, for a method that changes its weights on the way."""

    step: int
    """Optimizer steps done; 0 before the first."""
    total: int
    epoch: float
    """Passes over the forget set that are done."""
    base: Weights
    """The options of the spec."""
    weights: Weights
    """Those of the step just done; before the first, the options of the spec."""
    losses: Mapping[str, float]
    """Terms of the step just done, unweighted means over its global batch: `forget`, `retain`;
    empty before the first."""


@runtime_checkable
class Method(Protocol):
    """A method plugin: a frozen dataclass whose fields are its options in `[method]`; the module's
    docstring says what else it may have."""

    @property
    def forget_loss(self) -> Any:
        """`forget_loss(forget, ...) -> Tensor` of shape (B,) or (N,)."""
        ...
