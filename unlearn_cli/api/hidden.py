"""Activations: what the decoder blocks of a model put out, for methods that steer them.

Notation, for a micro-batch of B rows with P tokens in all (prompts included, padding never), of
which N predict an answer token; d values a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Hidden:
    """Outputs of decoder blocks for the tokens of B rows, packed row after row."""

    layers: Mapping[str, Tensor]
    """For each pattern of the method's `layers`: (P, d) float32, the output of that block."""
    at_answer: Tensor
    """(P,) bool, whether the token predicts an answer token; N are true."""
    row: Tensor
    """(P,) int64, which of the B rows a token belongs to, ascending."""
    rows: int
    """B."""
