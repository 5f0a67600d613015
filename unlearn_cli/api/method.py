"""The contract of an unlearning method.

A method is a frozen dataclass whose fields are its hyper-parameters, with one function
`forget_loss`. Its parameter names are its requirements; what is not named is not computed:

    forget               Scores of the forget answers under the model in training
    reference            Scores of the same answers under the model before its first update
    alternate            Scores of the alternate answers to the same questions
    alternate_reference  the same under the model before its first update

It returns one value per example, shape (B,), or per answer token, shape (N,), in nats, never a
mean: the engine divides the sum over the global batch by the global count of examples or tokens.
The tokens are those of the forget answers, or of the alternates where no forget answer is named.
The total loss of a step is `gamma * forget term + alpha * retain term`.

Whoever annotates the fields with `Annotated[float, Gt(0)]` and the like gets every spec checked
against the range, and the range printed by `unlearn show`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

RetainTerm = Literal["none", "nll", "kl"]


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
    """The retain term: `none`, `nll` (token mean) or `kl` (to the reference, at answer tokens)."""


@runtime_checkable
class Method(Protocol):
    """See the module's docstring."""

    @property
    def forget_loss(self) -> Any:
        """`forget_loss(forget, ...) -> Tensor` of shape (B,) or (N,)."""
        ...
